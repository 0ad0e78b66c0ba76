"""Losses over logits (B, C) and targets (B,) int64: the mean over the batch, weighted by class where asked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(weights: Tensor | None) -> Loss:
    """Return -w_y log p_y, averaged with the weights w (C,)."""
    return lambda logits, targets: functional.cross_entropy(logits, targets, weight=weights)


def focal(weights: Tensor | None, gamma: float) -> Loss:
    """Return -w_y (1 - p_y)^gamma log p_y (Lin et al. 2017, eq. 5), averaged with the weights w (C,)."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        log_p = functional.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
        # 1 - p through expm1: exact where p is close to 1
        each = -((-torch.expm1(log_p)).clamp(min=1e-12) ** gamma) * log_p
        if weights is None:
            return each.mean()
        return (weights[targets] * each).sum() / weights[targets].sum()

    return loss


def label_smoothing(weights: Tensor | None, smoothing: float) -> Loss:
    """Return cross-entropy against (1 - s) one-hot + s / C (Szegedy et al. 2016, section 7)."""
    return lambda logits, targets: functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)


LOSSES = ("ce", "focal", "label_smoothing")


def make_loss(name: str, gamma: float, smoothing: float, weights: Tensor | None) -> Loss:
    """Return the loss of a name in LOSSES."""
    if name == "ce":
        return cross_entropy(weights)
    if name == "focal":
        return focal(weights, gamma)
    if name == "label_smoothing":
        return label_smoothing(weights, smoothing)
    raise ValueError(f"loss must be one of {', '.join(LOSSES)}, found {name!r}")


def balanced_weights(counts: Tensor) -> Tensor:
    """Return class weights N / (C n_c) float32 (C,) from the counts n (C,) of the training split."""
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()
