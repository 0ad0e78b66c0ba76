"""Products of batches of matrices, whose gradients lie in memory as their inputs do.

torch's own gradients of a product with a transposed matrix are transposed too. Whatever reads them
next copies them first: the sum of two gradients, a softmax, or a selection of frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def dot_products(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T (B, N, M), contiguous: the dot products of the rows of a (B, N, D) and of b (B, M, D)."""
    products: Tensor = _DotProducts.apply(a, b)  # type: ignore[no-untyped-call]
    return products


def sum_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Return weights^T rows (B, M, D): sums of rows (B, N, D) with weights (B, N, M)."""
    sums: Tensor = _SumRows.apply(weights, rows)  # type: ignore[no-untyped-call]
    return sums


class _DotProducts(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return torch.bmm(gradient, b), torch.bmm(gradient.transpose(1, 2), a)


class _SumRows(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(weights, rows)
        return torch.bmm(weights.transpose(1, 2), rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weights, rows = ctx.saved_tensors
        return torch.bmm(rows, gradient.transpose(1, 2)), torch.bmm(weights, gradient)
