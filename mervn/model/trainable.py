"""Trainable: base class of the models that the trainer trains, a head or encoders and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from features.ragged import Ragged
from mervn.config import TrainingOptions


class Trainable(nn.Module, ABC):
    """Model from the inputs of a split to logits, in two steps: encode and classify.

    Between the steps, training can augment the features.
    """

    first_epoch = 1
    """0 if the model is scored once before training, else 1."""

    @abstractmethod
    def encode(self, inputs: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return the features of each stream, (sum T, D), or (sum T, L, D) if layers are mixed."""

    @abstractmethod
    def classify(self, features: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from features."""

    @abstractmethod
    def parameter_groups(self, options: TrainingOptions) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups.

        The optional key `scale` is the learning rate of a group relative to the head's.
        """

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Set which parameters this epoch trains; epochs count from 1."""

    def forward(self, inputs: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from the inputs of a split."""
        return self.classify(self.encode(inputs))


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Return the total number of elements of parameters."""
    return sum(parameter.numel() for parameter in parameters)
