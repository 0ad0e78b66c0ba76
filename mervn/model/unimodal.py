"""Fusion baselines without interaction between modalities: text only, audio only, late fusion."""

from __future__ import annotations

from torch import nn

from features.ragged import Ragged


class Text(nn.Module):
    """Text-only baseline: returns the projected text stream."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [text]."""
        return [streams["text"]]


class Audio(nn.Module):
    """Audio-only baseline: returns the projected audio stream."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [audio]."""
        return [streams["audio"]]


class Late(nn.Module):
    """Late fusion: returns both projected streams.

    Each is pooled separately, and the classifier reads the concatenated vectors.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [text, audio]."""
        return [streams["text"], streams["audio"]]
