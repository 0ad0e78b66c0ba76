"""Metrics of classification, computed over all utterances at once, not averaged per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CALIBRATION_BINS = 15
"""Number of bins of equal width for the calibration error."""


@dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 of one class; 0 if undefined."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Metrics:
    """Scores of N predictions for a fixed list of labels."""

    n: int
    accuracy: float
    macro_f1: float
    """Mean F1 over the labels that occur in the targets, as for UAR; 0 for one that is never right."""
    uar: float
    """Unweighted average recall over the labels that occur in the targets."""
    weighted_f1: float
    nll: float
    """Mean negative log-likelihood of the true class."""
    ece: float
    """Expected calibration error (Guo et al. 2017, eq. 3), 15 bins of equal width."""
    per_class: dict[str, ClassMetrics]
    confusion: list[list[int]]
    """[true label][predicted label] counts."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def compute_metrics(targets: Array, probabilities: Array, labels: Sequence[str]) -> Metrics:
    """Score probabilities (N, C) against targets (N,) int64, which are indices into `labels`.

    The probabilities of an utterance sum to 1.
    """
    predictions, count = probabilities.argmax(1), len(labels)
    cells = np.bincount(targets * count + predictions, minlength=count**2)
    confusion = cells.reshape(count, count)  # [true label][predicted label]
    right, support, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall = ratio(right, predicted), ratio(right, support)
    f1 = ratio(2 * right, support + predicted)
    true_class = probabilities[np.arange(len(targets)), targets]  # (N,)
    per_class = {}
    for i, label in enumerate(labels):
        per_class[label] = ClassMetrics(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
    return Metrics(
        n=len(targets),
        accuracy=float((predictions == targets).mean()),
        macro_f1=float(f1[support > 0].mean()),
        uar=float(recall[support > 0].mean()),
        weighted_f1=float((f1 * support).sum() / support.sum()),
        nll=float(-np.log(np.clip(true_class, 1e-12, None)).mean()),
        ece=calibration_error(targets, probabilities),
        per_class=per_class,
        confusion=confusion.tolist(),
    )


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator, 0 where the denominator is 0."""
    return np.asarray(numerator / np.where(denominator == 0, 1, denominator))


def calibration_error(targets: Array, probabilities: Array) -> float:
    """Return the expected calibration error: mean |accuracy - confidence|, weighted by bin size."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == targets
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    # sum of (correct - confidence) per bin = bin size * (accuracy - mean confidence)
    sums = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(sums).sum() / len(targets))
