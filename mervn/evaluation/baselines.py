"""Scores that need no model: guessing by chance, and always answering the most frequent label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from mervn.evaluation.intervals import METRICS, score

Array = np.ndarray[Any, Any]


def baselines(support: Array, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the scores of both baselines on utterances of which `support` (C,) have each label."""
    return {"chance": chance_scores(support), "majority": majority_scores(support, labels)}


def chance_scores(support: Array) -> dict[str, float]:
    """Return the expected scores of a guess that takes every label with probability 1 / C.

    Accuracy and UAR are 1 / C. The expected F1 of a label with n of N utterances is exact: of P
    utterances guessed as the label, P * n / N are right on average, so it is the mean of
    2 P n / (N (n + P)) over P ~ Binomial(N, 1 / C).

    support: (C,) int64, utterances of each label.
    """
    num_classes, total = len(support), int(support.sum())
    guessed = np.arange(total + 1)  # (N + 1,)
    probability = stats.binom.pmf(guessed, total, 1 / num_classes)  # (N + 1,)
    f1 = np.zeros(num_classes)
    for label, count in enumerate(support.tolist()):
        if count:
            f1[label] = (probability * 2 * guessed * count / (total * (count + guessed))).sum()
    return {
        "accuracy": 1 / num_classes,
        "macro_f1": float(f1[support > 0].mean()),
        "uar": 1 / num_classes,
        "weighted_f1": float((f1 * support).sum() / total),
    }


def majority_scores(support: Array, labels: Sequence[str]) -> dict[str, Any]:
    """Return the scores of always answering the most frequent label, of equal ones the first.

    The label is the most frequent one of the utterances that are scored, so no constant answer has
    a higher accuracy on them.

    support: (C,) int64, utterances of each label.
    """
    answer = int(support.argmax())
    confusion = np.zeros((len(support), len(support)), np.int64)  # [true][predicted]
    confusion[:, answer] = support
    scores: dict[str, Any] = {metric: float(score(confusion, metric)) for metric in METRICS}
    return {**scores, "label": labels[answer]}
