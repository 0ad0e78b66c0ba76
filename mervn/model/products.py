"""Products of batches of matrices, whose gradients lie in memory as their inputs do.

torch's own gradients of a product with a transposed matrix are transposed too. Whatever reads them
next copies them first: the sum of two gradients, a softmax, or a selection of frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def dot_products(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T (B, N, M), contiguous: dot products of the vectors a (B, N, D) and b (B, M, D)."""
    products: Tensor = _DotProducts.apply(a, b)  # type: ignore[no-untyped-call]
    return products


def weighted_sums(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return weights^T vectors (B, M, D): M sums of vectors (B, N, D) with weights (B, N, M)."""
    sums: Tensor = _WeightedSums.apply(weights, vectors)  # type: ignore[no-untyped-call]
    return sums


class _DotProducts(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return torch.bmm(gradient, b), torch.bmm(gradient.transpose(1, 2), a)


class _WeightedSums(Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(weights, vectors)
        return torch.bmm(weights.transpose(1, 2), vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weights, vectors = ctx.saved_tensors
        return torch.bmm(vectors, gradient.transpose(1, 2)), torch.bmm(weights, gradient)
