"""Trainable: base class of the models that the trainer trains, a head or encoders and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict

from torch import Tensor, nn

from features.ragged import Ragged
from mervn.config import TrainingOptions


class ParameterGroup(TypedDict):
    """Parameters that AdamW updates with the same settings."""

    params: list[nn.Parameter]
    weight_decay: float
    scale: NotRequired[float]
    """The learning rate of the group relative to the head's; default 1."""


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
    def parameter_groups(self, options: TrainingOptions) -> list[ParameterGroup]:
        """Return AdamW's parameter groups."""

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Set which parameters this epoch trains; epochs count from 1."""

    def forward(self, inputs: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from the inputs of a split."""
        return self.classify(self.encode(inputs))


def decay_groups(module: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Return AdamW's parameter groups of a module, with and without weight decay.

    Biases, norms and tokens for a missing modality have none.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        decays = parameter.ndim > 1 and not name.endswith("missing")
        (decayed if decays else not_decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Return the total number of elements of parameters."""
    return sum(parameter.numel() for parameter in parameters)
