"""Checks of losses: finite, a mean over the batch in any order, lower for correct predictions.

Each check returns what is wrong, or None. The tests run the checks on all built-in losses; `mervn
check-module` runs them on custom losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mervn.model.module_checks import NUM_CLASSES, RUNS, TOLERANCE, describe


def finite_scalar(loss: nn.Module) -> str | None:
    """Require a finite scalar."""
    found = loss(*make_predictions())
    if not isinstance(found, Tensor) or found.ndim:
        return f"forward must return a scalar, found {describe(found)}"
    return None if found.isfinite() else f"it must be finite, found {found.item()}"


def loss_independent_of_order(loss: nn.Module) -> str | None:
    """Compare with the batch in reverse order."""
    logits, targets = make_predictions()
    change = (loss(logits.flip(0), targets.flip(0)) - loss(logits, targets)).abs().item()
    return f"the order of the batch changes it by {change:.2g}" if change > TOLERANCE else None


def mean_over_batch(loss: nn.Module) -> str | None:
    """Repeat the batch: a mean must not change.

    Only a mean over the batch can be combined over several processes by their batch sizes.
    """
    logits, targets = make_predictions()
    once, twice = loss(logits, targets).item(), loss(logits.repeat(2, 1), targets.repeat(2)).item()
    if abs(once - twice) > TOLERANCE:
        return f"it must be a mean over the batch, found {once:.3g} for a batch and {twice:.3g} for the batch repeated"
    return None


def finite_loss_gradient(loss: nn.Module) -> str | None:
    """Require a finite gradient, for logits of usual and of very large size."""
    for size in (1.0, 60.0):
        logits, targets = make_predictions()
        logits = (logits * size).requires_grad_()
        loss(logits, targets).backward()
        if logits.grad is None or not logits.grad.isfinite().all():
            return f"the gradient is missing or not finite for logits {size:g} times as large as usual"
        if size == 1 and not logits.grad.any():
            return "the gradient is zero"
    return None


def lower_for_correct(loss: nn.Module) -> str | None:
    """Require a lower loss for correct than for wrong predictions."""
    targets = make_predictions()[1]
    logits = nn.functional.one_hot(targets, NUM_CLASSES).float() * 6 - 3
    correct, wrong = loss(logits, targets).item(), loss(-logits, targets).item()
    if correct < wrong:
        return None
    return f"correct predictions must have a lower loss than wrong ones, found {correct:.3g} and {wrong:.3g}"


def make_predictions() -> tuple[Tensor, Tensor]:
    """Return logits (6, C) and targets (6,), always the same."""
    logits = torch.randn(6, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    return logits, torch.tensor([0, 2, 1, 0, 2, 2])


LOSS_CHECKS: dict[str, Callable[[nn.Module], str | None]] = {
    RUNS: finite_scalar,
    "order of the batch": loss_independent_of_order,
    "mean over the batch": mean_over_batch,
    "finite gradients": finite_loss_gradient,
    "lower loss for correct predictions": lower_for_correct,
}
"""Checks of a loss, by name; each runs with and without class weights."""
