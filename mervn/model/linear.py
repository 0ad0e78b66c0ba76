"""Parts of the linear baseline: logits W x + b of the centred time-means x of all streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.ragged import Ragged


class Centring(nn.Module):
    """Subtracts the train mean from the frames of one stream; several layers are concatenated.

    The mean over the frames of an utterance is then its centred time-mean. For an empty stream,
    mean pooling gives zeros, which stand for the train mean.
    """

    centre: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))

    def forward(self, stream: Ragged) -> Ragged:
        """Map (sum T, D) or, for L layers, (sum T, L, D) to (sum T, width), width = L * D."""
        return stream.replace(stream.values.flatten(1) - self.centre)


class Separate(nn.Module):
    """Fusion that returns each stream on its own, to be pooled and concatenated."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return all streams in their order."""
        return list(streams.values())
