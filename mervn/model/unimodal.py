"""Baselines without interaction: one modality, or both side by side."""

from __future__ import annotations

from torch import nn

from features.ragged import Ragged


class Text(nn.Module):
    """The projected text stream as it is."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [text]."""
        return [streams["text"]]


class Audio(nn.Module):
    """The projected audio stream as it is."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [audio]."""
        return [streams["audio"]]


class Late(nn.Module):
    """Both projected streams, pooled apart."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [text, audio]."""
        return [streams["text"], streams["audio"]]
