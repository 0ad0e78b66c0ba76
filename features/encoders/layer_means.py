"""The time-mean of every layer: one short sequence an utterance, cheap to store, to choose a layer by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from features.encoders.base import Encoder, Lengths
from features.encoders.selector import MEANS, EncoderSettings, Selector
from features.ragged import Ragged, segment_mean
from features.text.normalize import TokenCounts


class LayerMeans(Encoder):
    """Wraps an encoder of several layers: one row a layer, in their order, each the mean over time."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner = inner
        self.name, self.modality = inner.name, inner.modality  # type: ignore[misc]
        self.numerics_version = inner.numerics_version  # type: ignore[misc]
        self.dim, self.num_layers, self.config = inner.dim, inner.num_layers, inner.config
        self.layers = (MEANS,)
        self.model_name, self.weights_note, self.is_random = inner.model_name, inner.weights_note, inner.is_random
        self.weights_sha256, self.fine_tuning, self.source = inner.weights_sha256, inner.fine_tuning, inner.source
        self.eval()

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> LayerMeans:
        """Refuse: it wraps an encoder that is loaded already."""
        raise TypeError("LayerMeans wraps a loaded encoder: LayerMeans(load_encoder(selector))")

    def save(self, folder: Path) -> None:
        """Write the encoder it wraps."""
        self.inner.save(folder)

    def prepare(self, raw: Any) -> Tensor:
        """Prepare as the encoder does."""
        return self.inner.prepare(raw)

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether the encoder cuts this input."""
        return self.inner.is_truncated(raw)

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts | None:
        """Count as the encoder does."""
        return self.inner.count_tokens(transcripts)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the number of layers, and nothing for an empty input."""
        return len(self.inner.layers) * (lengths > 0)

    def get_padded_length(self, length: int) -> int:
        """Return the encoder's."""
        return self.inner.get_padded_length(length)

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode prepared inputs into [(sum L, D)]."""
        means = [segment_mean(layer.map(torch.Tensor.float)) for layer in self.inner.forward_layers(inputs)]
        stacked = torch.stack(means, dim=1)  # (B, L, D)
        return [Ragged.from_lengths(stacked.flatten(0, 1), [stacked.shape[1]] * stacked.shape[0])]
