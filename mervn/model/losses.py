"""Classification losses for logits (B, C) and targets (B,) int64.

Each loss is a mean over the batch, optionally with class weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.lazy_import import import_target
from mervn.config import TrainingOptions
from mervn.model.custom_module import loss_spec


class CrossEntropy(nn.Module):
    """Cross-entropy, -w_y log p_y, as a mean weighted by the class weights w (C,)."""

    weights: Tensor | None

    def __init__(self, weights: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map (B, C) and (B,) to a scalar."""
        return functional.cross_entropy(logits, targets, weight=self.weights)


class Focal(nn.Module):
    """Focal loss, -w_y (1 - p_y)^gamma log p_y, as a mean weighted by the class weights w (C,).

    Lin et al. 2017, eq. 5.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None, gamma: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map (B, C) and (B,) to a scalar."""
        log_p = functional.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]  # (B,)
        # expm1 keeps 1 - p exact for p close to 1. The clamp keeps the gradient finite if gamma is
        # less than 1.
        losses = -((-torch.expm1(log_p)).clamp(min=1e-12) ** self.gamma) * log_p
        if self.weights is None:
            return losses.mean()
        weights = self.weights[targets]
        return (weights * losses).sum() / weights.sum()


class LabelSmoothing(nn.Module):
    """Cross-entropy with label smoothing: target (1 - s) one-hot + s / C.

    Szegedy et al. 2016, section 7.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map (B, C) and (B,) to a scalar."""
        return functional.cross_entropy(logits, targets, weight=self.weights, label_smoothing=self.smoothing)


def balanced_weights(counts: Tensor) -> Tensor:
    """Return class weights N / (C n_c), float32 (C,), for class counts n (C,) with sum N.

    A class without utterances counts as one utterance.
    """
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()


def build_loss(options: TrainingOptions, class_weights: Tensor | None) -> nn.Module:
    """Build the loss that the options name, with class weights float32 (C,) or none."""
    spec = loss_spec(options.loss)
    arguments = {name: getattr(options, name) for name in spec.options}
    loss: nn.Module = import_target(spec.target)(class_weights, **arguments)
    return loss
