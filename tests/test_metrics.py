import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from mervn.evaluation.metrics import calibration_error, compute_metrics

RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 3, 200)
PROBABILITIES = RNG.dirichlet([1, 1, 1], 200)


def test_metrics_equal_those_of_scikit_learn_over_all_utterances() -> None:
    found = compute_metrics(TARGETS, PROBABILITIES, ["a", "b", "c"])
    predicted = PROBABILITIES.argmax(1)
    assert found.accuracy == pytest.approx(accuracy_score(TARGETS, predicted))
    assert found.macro_f1 == pytest.approx(f1_score(TARGETS, predicted, average="macro"))
    assert found.weighted_f1 == pytest.approx(f1_score(TARGETS, predicted, average="weighted"))
    assert found.uar == pytest.approx(recall_score(TARGETS, predicted, average="macro"))
    assert found.nll == pytest.approx(log_loss(TARGETS, PROBABILITIES))
    assert sum(entry.support for entry in found.per_class.values()) == found.n == 200
    assert np.trace(found.confusion) == pytest.approx(200 * found.accuracy)


def test_a_label_without_utterances_counts_neither_in_macro_f1_nor_in_uar() -> None:
    found = compute_metrics(np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]), ["a", "b", "c"])
    assert found.macro_f1 == found.uar == 1.0
    # an utterance that is mistaken for the label is still wrong
    targets, predicted = np.array([0, 1, 1]), np.array([0, 1, 2])
    found = compute_metrics(targets, np.eye(3)[predicted], ["a", "b", "c"])
    assert found.macro_f1 == pytest.approx(f1_score(targets, predicted, labels=[0, 1], average="macro"))
    assert found.uar == pytest.approx(recall_score(targets, predicted, labels=[0, 1], average="macro"))
    assert found.macro_f1 > f1_score(targets, predicted, labels=[0, 1, 2], average="macro", zero_division=0)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.tile([0.8, 0.2], (10, 1))
    right = np.array([0] * 8 + [1] * 2)
    assert calibration_error(right, sure) == pytest.approx(0.0)
    assert calibration_error(np.ones(10, np.int64), sure) == pytest.approx(0.8)
