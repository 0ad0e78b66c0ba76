"""Metrics of predictions: computed over all utterances at once, with a fixed list of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

CALIBRATION_BINS = 15


def compute_metrics(
    targets: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any], labels: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy, macro-F1, UAR, weighted F1, NLL, ECE, per-class figures and the confusion matrix.

    `targets` (N,) int64 index `labels`, `probabilities` (N, C) sum to 1 a row. Macro-F1 is the mean over all labels,
    a label that is never right counting 0; UAR is the mean recall over the labels that are there. Rows of the
    confusion matrix are the true labels. ECE: Guo et al. 2017, eq. 3, with 15 bins of equal width.
    """
    predictions = probabilities.argmax(1)
    classes = list(range(len(labels)))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predictions, labels=classes, zero_division=0.0
    )
    present = support > 0
    chosen = probabilities[np.arange(len(targets)), targets]
    return {
        "n": len(targets),
        "accuracy": float((predictions == targets).mean()),
        "macro_f1": float(f1.mean()),
        "uar": float(recall[present].mean()),
        "weighted_f1": float((f1 * support).sum() / support.sum()),
        "nll": float(-np.log(np.clip(chosen, 1e-12, None)).mean()),
        "ece": calibration_error(targets, probabilities),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion_matrix(targets, predictions, labels=classes).tolist(),
    }


def calibration_error(targets: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
    """Return the expected calibration error: |accuracy - confidence| a bin, weighted by the bin's share."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == targets
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(sums).sum() / len(targets))
