"""Losses over logits (B, C) and targets (B,) int64: the mean over the batch, weighted by class where asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossEntropy(nn.Module):
    """-w_y log p_y, averaged with the class weights w (C,)."""

    weights: Tensor | None

    def __init__(self, weights: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B,) -> ()."""
        return functional.cross_entropy(logits, targets, weight=self.weights)


class Focal(nn.Module):
    """-w_y (1 - p_y)^gamma log p_y (Lin et al. 2017, eq. 5), averaged with the class weights w (C,)."""

    weights: Tensor | None

    def __init__(self, weights: Tensor | None, gamma: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B,) -> ()."""
        log_p = functional.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
        # 1 - p through expm1: exact where p is close to 1
        each = -((-torch.expm1(log_p)).clamp(min=1e-12) ** self.gamma) * log_p
        if self.weights is None:
            return each.mean()
        weights = self.weights[targets]
        return (weights * each).sum() / weights.sum()


class LabelSmoothing(nn.Module):
    """Cross-entropy against (1 - s) one-hot + s / C (Szegedy et al. 2016, section 7), with class weights w (C,)."""

    weights: Tensor | None

    def __init__(self, weights: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C), (B,) -> ()."""
        return functional.cross_entropy(logits, targets, weight=self.weights, label_smoothing=self.smoothing)


def balanced_weights(counts: Tensor) -> Tensor:
    """Return class weights N / (C n_c) float32 (C,) from the counts n (C,) of the training split."""
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()
