"""Baseline on shuffled labels: a check that the features and the scoring hold no labels.

A linear classifier is fitted to labels of train that were shuffled (Ojala, Garriga 2010,
"Permutation Tests for Studying Classifier Performance"). It can only score at chance. A higher
score means that the scored labels reach the predictions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from features.random_streams import Purpose, generator
from mervn.data.split import Split
from mervn.evaluation.evidence import ScoredUtterances, widest
from mervn.evaluation.intervals import (
    METRICS,
    TIE,
    Interval,
    Units,
    group_units,
    jackknife_interval,
    score,
    unit_confusions,
)
from mervn.training.linear_fit import time_means

Array = np.ndarray[Any, Any]
SHUFFLES = 100
PENALTY = 1.0
"""Ridge penalty per utterance of train, for standardised features."""
LEVEL = 0.95


def shuffled_predictions(train: Split, scored: Split, num_classes: int) -> list[Array]:
    """Return the predictions (N,) int64 for a split of one linear classifier per shuffle of train.

    Ridge regression of the shuffled labels (one-hot) on the standardised time-means of all streams;
    the class with the highest output is predicted. All shuffles are solved at once. Training the
    head on each would take 100 times as long as the run, and one shuffle alone says little: where
    classes form clusters, it scores far above or below chance by luck.
    """
    features, answers = _features(train, scored)
    outputs = shuffled_outputs(features, train.targets, answers, num_classes)
    return [output.argmax(1) for output in outputs]


def _features(train: Split, scored: Split) -> tuple[Array, Array]:
    """Return the standardised time-means (M, D) of train and (N, D) of the scored split."""
    of_train, of_scored = time_means(train), time_means(scored)
    first = np.concatenate([of_train[name] for name in sorted(of_train)], axis=1)
    second = np.concatenate([of_scored[name] for name in sorted(of_train)], axis=1)
    mean, std = first.mean(0), first.std(0)
    std[std < TIE] = 1.0
    return (first - mean) / std, (second - mean) / std


def shuffled_labels(targets: Array, num_classes: int, number: int) -> Array:
    """Return the targets (M,) int64 in another order, with the names of the classes exchanged too.

    The exchange of names makes each class equally probable for each utterance, also if train has
    one class more often: then the expected accuracy and UAR are exactly 1 / C.
    """
    random = generator(Purpose.SHUFFLED_LABELS, number)
    names = random.permutation(num_classes)
    shuffled: Array = names[random.permutation(targets)]
    return shuffled


def shuffled_outputs(features: Array, targets: Array, scored: Array, num_classes: int) -> list[Array]:
    """Return outputs (N, C) for features (N, D) of a ridge regression per shuffle of (M, D) and (M,)."""
    labels = [shuffled_labels(targets, num_classes, number) for number in range(SHUFFLES)]
    wanted = np.concatenate([np.eye(num_classes)[each] for each in labels], axis=1)  # (M, SHUFFLES * C)
    centre, (num, width) = wanted.mean(0), features.shape
    penalty = PENALTY * num
    if width <= num:
        system = features.T @ features + penalty * np.eye(width)
        weights = np.linalg.solve(system, features.T @ (wanted - centre))  # (D, SHUFFLES * C)
    else:  # the same weights from the smaller matrix (M, M)
        system = features @ features.T + penalty * np.eye(num)
        weights = features.T @ np.linalg.solve(system, wanted - centre)
    return np.split(scored @ weights + centre, SHUFFLES, axis=1)


def shuffled_scores(shuffles: Sequence[ScoredUtterances], num_classes: int) -> dict[str, Any]:
    """Return mean scores over shuffles, intervals and `above_chance`, as of the other baselines.

    An interval is the widest of those of the units, and of the t interval of the mean over shuffles.
    `above_chance` names accuracy and UAR if their interval lies above 1 / C.
    """
    first = shuffles[0]
    units = [group_units(values, key) for key, values in first.units.items()]
    counts = []
    for unit in units:
        each = [unit_confusions(first.targets, one.predictions, unit, num_classes) for one in shuffles]
        counts.append(np.stack(each, axis=1))  # (G, SHUFFLES, C, C)
    scores: dict[str, float] = {}
    intervals: dict[str, dict[str, Any] | None] = {}
    above = []
    for metric in METRICS:
        values = score(counts[0].sum(0), metric).tolist()
        scores[metric] = statistics.fmean(values)
        found = [jackknife_interval(count, unit, metric) for count, unit in zip(counts, units, strict=True)]
        interval = widest([*found, _over_shuffles(values, units[0])])
        intervals[metric] = None if interval is None else interval.as_json()
        if metric in ("accuracy", "uar") and interval is not None and interval.low > 1 / num_classes + TIE:
            above.append(metric)
    return {**scores, "intervals": intervals, "above_chance": above}


def _over_shuffles(values: Sequence[float], units: Units) -> Interval:
    """Return the t interval of the mean over shuffles, clipped to 0..1."""
    count, mean = len(values), statistics.fmean(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Interval(low, high, LEVEL, f"t({count - 1}) over shuffles", "shuffle", units.num, units.effective)
