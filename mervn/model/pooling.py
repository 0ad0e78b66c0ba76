"""Pooling: one vector for each sequence, over its real frames only; a length-0 sequence gives zeros."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.ragged import Ragged, segment_mean, segment_sum


class ClsPooling(nn.Module):
    """The first row: the text [CLS] position of a sequence that begins with text."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """(sum T, D) -> (B, D)."""
        if not sequence.total:
            return sequence.values.new_zeros((sequence.batch_size, sequence.values.shape[1]))
        first = sequence.values[sequence.offsets.clamp(max=sequence.total - 1)]
        return torch.where(sequence.lengths[:, None] > 0, first, torch.zeros_like(first))


class MeanPooling(nn.Module):
    """The mean over the real frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """(sum T, D) -> (B, D)."""
        return segment_mean(sequence)


class MaxPooling(nn.Module):
    """The greatest value of each dimension over the real frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """(sum T, D) -> (B, D)."""
        return _extreme(sequence)


class MinPooling(nn.Module):
    """The least value of each dimension over the real frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """(sum T, D) -> (B, D)."""
        return -_extreme(sequence.map(torch.neg))


def _extreme(sequence: Ragged) -> Tensor:
    if not sequence.total:
        return sequence.values.new_zeros((sequence.batch_size, sequence.values.shape[1]))
    greatest = sequence.pad(torch.finfo(sequence.values.dtype).min).amax(1)  # (B, D)
    return torch.where(sequence.lengths[:, None] > 0, greatest, torch.zeros_like(greatest))


class AttentivePooling(nn.Module):
    """A weighted mean, weights softmax over time of v^T tanh(W h + b) (Lin et al. 2017, eq. 5, one hop)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1, bias=False)

    def weights(self, sequence: Ragged) -> Tensor:
        """Return the weights (sum T, 1); those of a sequence add up to 1."""
        scores = sequence.map(lambda values: self.score(torch.tanh(self.hidden(values))).float())  # (sum T, 1)
        greatest = _extreme(scores.map(torch.detach))  # (B, 1): any constant leaves a softmax as it is
        exponentials = scores.map(lambda values: (values - greatest[scores.segments]).exp())
        return exponentials.values / segment_sum(exponentials)[scores.segments]

    def forward(self, sequence: Ragged) -> Tensor:
        """(sum T, D) -> (B, D)."""
        return segment_sum(sequence.map(lambda values: values * self.weights(sequence)))
