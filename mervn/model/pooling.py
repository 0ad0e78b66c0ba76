"""Pooling: one vector per sequence, from its real frames only; zeros for an empty sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.ragged import Ragged, segment_mean, segment_sum


class ClsPooling(nn.Module):
    """[CLS] pooling: the first token of a sequence that begins with text.

    With `last_token` it is the last token of the text: the first one of a causal language model
    has seen no other.
    """

    last_token = False

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged, text_lengths: Tensor | None = None) -> Tensor:
        """Map (sum T, D) to (B, D).

        `text_lengths` (B,) int64 are the numbers of tokens that the sequences begin with, by
        default all.
        """
        if not sequence.total:
            return sequence.values.new_zeros((sequence.batch_size, sequence.values.shape[1]))
        position = sequence.offsets
        if self.last_token:
            lengths = sequence.lengths if text_lengths is None else text_lengths.minimum(sequence.lengths)
            position = position + (lengths - 1).clamp(min=0)
        # The clamp keeps the index valid for an empty last sequence, which gets zeros below.
        token = sequence.values[position.clamp(max=sequence.total - 1)]
        return torch.where(sequence.lengths[:, None] > 0, token, torch.zeros_like(token))


class MeanPooling(nn.Module):
    """Mean over time."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """Map (sum T, D) to (B, D)."""
        return segment_mean(sequence)


class MaxPooling(nn.Module):
    """Maximum over time of each dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """Map (sum T, D) to (B, D)."""
        return _max_over_time(sequence)


class MinPooling(nn.Module):
    """Minimum over time of each dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, sequence: Ragged) -> Tensor:
        """Map (sum T, D) to (B, D)."""
        return -_max_over_time(sequence.replace(-sequence.values))


def _max_over_time(sequence: Ragged) -> Tensor:
    """Return the maximum (B, D) over the real frames of each sequence."""
    if not sequence.total:
        return sequence.values.new_zeros((sequence.batch_size, sequence.values.shape[1]))
    maximum = sequence.pad(torch.finfo(sequence.values.dtype).min).amax(1)  # (B, D)
    return torch.where(sequence.lengths[:, None] > 0, maximum, torch.zeros_like(maximum))


class AttentivePooling(nn.Module):
    """Attentive pooling: a mean over time with weights softmax(v^T tanh(W h + b)).

    Lin et al. 2017, eq. 5, with one hop.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.score = nn.Linear(dim, 1, bias=False)

    def weights(self, sequence: Ragged) -> Tensor:
        """Return the attention weights (sum T, 1); the weights of each sequence sum to 1."""
        hidden = torch.tanh(self.hidden(sequence.values))
        scores = sequence.replace(self.score(hidden).float())  # (sum T, 1)
        # Subtracting the maximum avoids overflow. It needs no gradient: a constant does not change
        # a softmax.
        maximum = _max_over_time(scores.replace(scores.values.detach()))  # (B, 1)
        exponentials = scores.replace((scores.values - maximum[scores.segments]).exp())
        return exponentials.values / segment_sum(exponentials)[scores.segments]

    def forward(self, sequence: Ragged) -> Tensor:
        """Map (sum T, D) to (B, D)."""
        return segment_sum(sequence.replace(sequence.values * self.weights(sequence)))
