"""Time-means of all layers: small features, from which the best layer can be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from features.encoders.base import Encoder, Lengths
from features.encoders.selector import MEANS, EncoderSettings, Selector
from features.encoders.transcript_tokens import TranscriptCounter
from features.ragged import Ragged, segment_mean
from features.text.normalize import TokenCounts


class LayerMeans(Encoder):
    """Time-means of the layers of a wrapped encoder.

    The output has one frame per layer, in order: the mean of that layer over time.
    """

    def __init__(self, inner: Encoder) -> None:
        super().__init__()
        self.inner = inner
        self.name, self.modality = inner.name, inner.modality  # type: ignore[misc]
        self.numerics_version = inner.numerics_version  # type: ignore[misc]
        self.dim, self.num_layers, self.config = inner.dim, inner.num_layers, inner.config
        self.layers = (MEANS,)
        self.model_name, self.weights_note, self.is_random = inner.model_name, inner.weights_note, inner.is_random
        self.weights_sha256, self.fine_tuning, self.source = inner.weights_sha256, inner.fine_tuning, inner.source
        self.code_record = inner.code_record
        self.eval()

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> LayerMeans:
        """Raise TypeError: it wraps an encoder that is already loaded."""
        raise TypeError("LayerMeans wraps a loaded encoder: LayerMeans(load_encoder(selector))")

    def save(self, folder: Path) -> None:
        """Save the wrapped encoder."""
        self.inner.save(folder)

    def prepare(self, raw: Any) -> Tensor:
        """Prepare the input for the wrapped encoder."""
        return self.inner.prepare(raw)

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether the wrapped encoder truncates this input."""
        return self.inner.is_truncated(raw)

    def num_tokens(self, transcript: str) -> int:
        """Return the number of tokens of the wrapped encoder."""
        return self.inner.num_tokens(transcript)

    @property
    def transcript_counter(self) -> TranscriptCounter | None:
        """That of the wrapped encoder."""
        return self.inner.transcript_counter

    @property
    def tokenization(self) -> dict[str, Any] | None:
        """That of the wrapped encoder."""
        return self.inner.tokenization

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts | None:
        """Count tokens with the wrapped encoder."""
        return self.inner.count_tokens(transcripts)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the number of layers; 0 for an empty input."""
        return len(self.inner.layers) * (lengths > 0)

    def get_padded_length(self, length: int) -> int:
        """Return the padded length of the wrapped encoder."""
        return self.inner.get_padded_length(length)

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode prepared inputs into [(sum L, D)]."""
        means = [segment_mean(layer.map(torch.Tensor.float)) for layer in self.inner.forward_layers(inputs)]
        stacked = torch.stack(means, dim=1)  # (B, L, D)
        return [Ragged.from_lengths(stacked.flatten(0, 1), [stacked.shape[1]] * stacked.shape[0])]
