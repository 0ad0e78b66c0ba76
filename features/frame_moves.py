"""Copies of frames to other positions, each frame at most once.

The gradient of such a copy is a copy too. torch's own gradients of indexing add to a tensor of
zeros, frame by frame and in one thread, because an index may name a frame twice.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function


def take_frames(values: Tensor, index: Tensor) -> Tensor:
    """Return the frames (K, ...) of values (N, ...) at index (K,) int64, which has no value twice."""
    taken: Tensor = _Take.apply(values, index)  # type: ignore[no-untyped-call]
    return taken


def place_frames(values: Tensor, index: Tensor, count: int, fill: float) -> Tensor:
    """Return (count, ...) with frame k of values (K, ...) at index[k], and `fill` elsewhere.

    `index` (K,) int64 has no value twice.
    """
    placed: Tensor = _Place.apply(values, index, count, fill)  # type: ignore[no-untyped-call]
    return placed


class _Take(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = values.shape[0]
        return values.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return place_frames(gradients[0], ctx.saved_tensors[0], ctx.count, 0.0), None


class _Place(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, count: int, fill: float) -> Tensor:
        ctx.save_for_backward(index)
        placed = values.new_full((count, *values.shape[1:]), fill)
        return placed.index_copy_(0, index, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return take_frames(gradients[0], ctx.saved_tensors[0]), None, None, None
