"""Classification losses for logits (B, C) and targets (B,) int64.

Each loss is a mean over the batch, optionally with class weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.errors import UsageError
from features.lazy_import import import_target
from mervn.config import TrainingOptions
from mervn.registry import LossSpec


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


class LogitAdjustment(nn.Module):
    """Cross-entropy of the logits f + tau log pi, for class priors pi (C,) with sum 1.

    Menon et al. 2021 (arXiv 2007.07314), eq. 10, the logit-adjusted softmax cross-entropy. Only the
    loss adds the priors, so the logits that it trains are those of balanced classes.
    """

    weights: Tensor | None
    adjustment: Tensor

    def __init__(self, weights: Tensor | None, priors: Tensor, tau: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("adjustment", (tau * priors.double().log()).float())  # (C,)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map (B, C) and (B,) to a scalar."""
        return functional.cross_entropy(logits + self.adjustment, targets, weight=self.weights)


def balanced_weights(counts: Tensor) -> Tensor:
    """Return class weights N / (C n_c), float32 (C,), for class counts n (C,) with sum N.

    A class without utterances counts as one utterance.
    """
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).float()


def class_priors(counts: Tensor) -> Tensor:
    """Return class priors n_c / N, float64 (C,), for class counts n (C,) with sum N.

    A class without utterances counts as one utterance.
    """
    counts = counts.clamp(min=1).double()
    return counts / counts.sum()


def require_one_correction(loss: LossSpec, options: TrainingOptions) -> None:
    """Raise UsageError if the loss and another option both correct the class priors.

    Class weights 1 / pi make the cross-entropy consistent for the balanced error, and so do priors
    added to the logits. Both together are not (Menon et al. 2021, theorem 1): they favour rare
    classes twice. Draws in proportion to class weights act like class weights.
    """
    if not loss.priors:
        return
    lines = []
    if options.class_weights != "none":
        lines.append(f"  --class-weights {options.class_weights}: leave it out, or use --loss ce")
    if options.sampling in ("weighted", "both"):
        lines.append(f"  --sampling {options.sampling}: use --sampling bucket or random, or --loss ce")
    if lines:
        raise UsageError(
            f"--loss {options.loss} corrects the class frequencies already; these options would correct "
            "them a second time:\n" + "\n".join(lines)
        )


def build_loss(spec: LossSpec, options: TrainingOptions, class_weights: Tensor | None, counts: Tensor) -> nn.Module:
    """Build a loss with its options.

    Class weights are float32 (C,) or None; `counts` (C,) are the utterances of each class in train.
    """
    arguments = {name: getattr(options, name) for name in spec.options}
    if spec.priors:
        arguments["priors"] = class_priors(counts)
    loss: nn.Module = import_target(spec.target)(class_weights, **arguments)
    return loss
