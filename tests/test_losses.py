import math

import pytest
import torch

from features.errors import UsageError
from mervn.config import TrainHeadOptions
from mervn.model.losses import (
    CrossEntropy,
    Focal,
    LabelSmoothing,
    LogitAdjustment,
    balanced_weights,
    build_loss,
    class_priors,
    require_one_correction,
)
from mervn.registry import LOSSES

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0]])
TARGETS = torch.tensor([0, 2, 0])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])
P = LOGITS.double().softmax(-1)[torch.arange(3), TARGETS]


def test_focal_loss_equals_its_formula() -> None:
    expected = (-((1 - P) ** 2) * P.log()).mean()
    assert Focal(None, 2.0)(LOGITS, TARGETS).item() == pytest.approx(expected.item(), rel=1e-5)
    w = WEIGHTS[TARGETS].double()
    weighted = (-w * (1 - P) ** 3 * P.log()).sum() / w.sum()
    found = Focal(WEIGHTS, 3.0)(LOGITS, TARGETS)
    assert found.item() == pytest.approx(weighted.item(), rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_without_focusing_is_cross_entropy(weights: torch.Tensor | None) -> None:
    focal, ce = Focal(weights, 0.0), CrossEntropy(weights)
    torch.testing.assert_close(focal(LOGITS, TARGETS), ce(LOGITS, TARGETS))


def test_focal_loss_and_gradient_are_finite_for_certain_predictions() -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], requires_grad=True)
    loss = Focal(None, 0.5)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_label_smoothing_equals_its_formula() -> None:
    log_p = LOGITS.double().log_softmax(-1)
    expected = -(0.8 * log_p[torch.arange(3), TARGETS] + 0.2 * log_p.mean(-1)).mean()
    found = LabelSmoothing(None, 0.2)(LOGITS, TARGETS)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_give_every_class_the_same_total() -> None:
    counts = torch.tensor([30, 10, 20])
    assert (balanced_weights(counts) * counts).tolist() == pytest.approx([20, 20, 20])
    assert math.isfinite(balanced_weights(torch.tensor([3, 0])).sum().item())


PRIORS = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment_equals_its_formula(tau: float) -> None:
    # the second form of eq. 10: log(1 + sum over y' != y of (pi_y' / pi_y)^tau exp(f_y' - f_y))
    losses = []
    for logits, y in zip(LOGITS.double().tolist(), TARGETS.tolist(), strict=True):
        ratios = [(PRIORS[k] / PRIORS[y]).item() ** tau * math.exp(logits[k] - logits[y]) for k in range(3) if k != y]
        losses.append(math.log1p(sum(ratios)))
    found = LogitAdjustment(None, PRIORS, tau)(LOGITS, TARGETS).item()
    assert found == pytest.approx(sum(losses) / 3, rel=1e-5)
    weighted = sum(w * loss for w, loss in zip(WEIGHTS[TARGETS].tolist(), losses, strict=True)) / WEIGHTS[TARGETS].sum()
    assert LogitAdjustment(WEIGHTS, PRIORS, tau)(LOGITS, TARGETS).item() == pytest.approx(weighted.item(), rel=1e-5)


def test_logit_adjustment_with_tau_0_or_equal_priors_is_cross_entropy_and_else_not() -> None:
    plain, equal = CrossEntropy(None)(LOGITS, TARGETS), torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(LogitAdjustment(None, PRIORS, 0.0)(LOGITS, TARGETS), plain)
    torch.testing.assert_close(LogitAdjustment(None, equal, 1.0)(LOGITS, TARGETS), plain)
    assert abs(LogitAdjustment(None, PRIORS, 1.0)(LOGITS, TARGETS) - plain) > 0.1


COUNTS = torch.tensor([[60, 3, 1], [30, 12, 1], [10, 5, 8]])
"""Utterances by input x and class y: the joint distribution of a problem with three inputs."""


def minimum(loss: torch.nn.Module) -> torch.Tensor:
    """Return the class probabilities (3, 3) float64 of the logits that minimise a loss on COUNTS."""
    table = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    cells = [(x, y) for x in range(3) for y in range(3) for _ in range(int(COUNTS[x, y]))]
    inputs, targets = torch.tensor(cells).T
    optimizer = torch.optim.LBFGS(
        [table], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(table[inputs], targets)
        value.backward()
        return value

    optimizer.step(step)
    return table.detach().softmax(1)


def test_logit_adjustment_learns_the_probabilities_of_balanced_classes_and_with_class_weights_it_does_not() -> None:
    joint, counts = COUNTS.double(), COUNTS.sum(0)
    likelihood = joint / joint.sum(0)  # p(x | y)
    balanced = likelihood / likelihood.sum(1, keepdim=True)
    weights = balanced_weights(counts).double()
    adjusted = LogitAdjustment(None, class_priors(counts), 1.0)
    torch.testing.assert_close(minimum(adjusted), balanced, atol=1e-5, rtol=0)
    torch.testing.assert_close(minimum(CrossEntropy(weights)), balanced, atol=1e-5, rtol=0)
    posterior = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(minimum(CrossEntropy(None)), posterior, atol=1e-5, rtol=0)
    both = minimum(LogitAdjustment(weights, class_priors(counts), 1.0))  # why this is refused
    assert (both - balanced).abs().max() > 0.1 and both[0].argmax() != balanced[0].argmax()


def test_the_priors_are_the_frequencies_of_train() -> None:
    assert class_priors(torch.tensor([6, 3, 1])).tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert class_priors(torch.tensor([9, 0])).tolist() == pytest.approx([0.9, 0.1])  # as if it had one utterance
    built = build_loss(LOSSES["logit_adjustment"], TrainHeadOptions(tau=0.5), None, torch.tensor([7, 2, 1]))
    assert built(LOGITS, TARGETS).item() == LogitAdjustment(None, PRIORS, 0.5)(LOGITS, TARGETS).item()


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"loss": "logit_adjustment", "sampling": "bucket"}, ""),
        ({"loss": "logit_adjustment", "sampling": "random"}, ""),
        ({"loss": "logit_adjustment"}, "--sampling both: use --sampling bucket or random"),
        ({"loss": "logit_adjustment", "sampling": "weighted"}, "--sampling weighted"),
        ({"loss": "logit_adjustment", "sampling": "bucket", "class_weights": "balanced"}, "--class-weights balanced"),
        ({"loss": "ce", "class_weights": "balanced"}, ""),
    ],
)
def test_a_second_correction_of_the_priors_is_refused(changes: dict[str, str], refused: str) -> None:
    options = TrainHeadOptions.model_validate(changes)
    if not refused:
        require_one_correction(LOSSES[options.loss], options)
        return
    with pytest.raises(UsageError, match=refused):
        require_one_correction(LOSSES[options.loss], options)
