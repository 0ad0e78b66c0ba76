import math

import pytest
import torch

from mervn.model.losses import CrossEntropy, Focal, LabelSmoothing, balanced_weights

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
