"""Evidence beside the scores of a split: intervals, baselines, and scores by group.

The scores of several seeds are averaged. Their confusion matrices are stacked as the blocks of one
block-diagonal matrix: each metric of that matrix equals the mean of the metric over the seeds, so
the methods of `mervn.evaluation.intervals` apply to means over seeds without a change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from mervn.evaluation.baselines import baselines
from mervn.evaluation.breakdown import in_order
from mervn.evaluation.intervals import METRICS, Interval, Units, group_units, jackknife_interval, score, unit_confusions

Array = np.ndarray[Any, Any]
BY_METRICS = ("accuracy", "macro_f1", "uar")


@dataclass(frozen=True)
class ScoredUtterances:
    """Predictions of one seed for N utterances, and the values that group the utterances."""

    targets: Array
    """(N,) int64: indices into the labels."""
    predictions: Array
    """(N,) int64: indices into the labels."""
    units: Mapping[str, Sequence[object]]
    """By key of --unit, the value of each utterance."""
    groups: Mapping[str, Sequence[str]]
    """By key of --by and kind of band, the name of each utterance's value."""


def pooled(folds: Sequence[ScoredUtterances]) -> ScoredUtterances:
    """Return the utterances of several folds together, in the order of the folds."""
    units, groups = {}, {}
    for key in folds[0].units:
        units[key] = list(chain.from_iterable(fold.units[key] for fold in folds))
    for key in folds[0].groups:
        groups[key] = list(chain.from_iterable(fold.groups[key] for fold in folds))
    targets = np.concatenate([fold.targets for fold in folds])
    return ScoredUtterances(targets, np.concatenate([fold.predictions for fold in folds]), units, groups)


def stacked_confusions(targets: Array, predictions: Sequence[Array], units: Units, num_classes: int) -> Array:
    """Return confusion matrices of units (G, S * C, S * C) int64 with one diagonal block per seed.

    targets: (N,) int64; predictions: for each of S seeds (N,) int64.
    """
    if len(predictions) == 1:
        return unit_confusions(targets, predictions[0], units, num_classes)
    size = len(predictions) * num_classes
    stacked = np.zeros((units.num, size, size), np.int64)
    for number, of_seed in enumerate(predictions):
        block = slice(number * num_classes, (number + 1) * num_classes)
        stacked[:, block, block] = unit_confusions(targets, of_seed, units, num_classes)
    return stacked


def evidence(seeds: Sequence[ScoredUtterances], labels: Sequence[str]) -> dict[str, Any]:
    """Return the evidence of metrics-<split>.json: units, intervals, baselines and by.

    seeds: for each seed its predictions for the same utterances in the same order.
    """
    first, num_classes = seeds[0], len(labels)
    predictions = [seed.predictions for seed in seeds]
    units, confusions = [], []
    for key, values in first.units.items():
        units.append(group_units(values, key))
        confusions.append(stacked_confusions(first.targets, predictions, units[-1], num_classes))
    intervals: dict[str, dict[str, Any] | None] = {}
    for metric in METRICS:
        found = widest(
            [jackknife_interval(counts, unit, metric) for counts, unit in zip(confusions, units, strict=True)]
        )
        intervals[metric] = None if found is None else found.as_json()
    return {
        "units": [_describe(key, unit) for key, unit in zip(first.units, units, strict=True)],
        "intervals": intervals,
        "baselines": baselines(np.bincount(first.targets, minlength=num_classes), labels),
        "by": _by(seeds, units[0], num_classes),
    }


def widest(intervals: Sequence[Interval | None]) -> Interval | None:
    """Return the widest interval; None if one does not exist, for that one has no bounds."""
    found = [interval for interval in intervals if interval is not None]
    if len(found) < len(intervals):
        return None
    return max(found, key=lambda interval: interval.high - interval.low)


def _describe(key: str, units: Units) -> dict[str, Any]:
    """Return the entry of a unit: key, G, G*, whether utterances are assumed independent."""
    return {
        "key": key,
        "unit": units.name,
        "groups": units.num,
        "effective_groups": units.effective,
        "independent": units.independent,
    }


def _by(seeds: Sequence[ScoredUtterances], units: Units, num_classes: int) -> dict[str, dict[str, Any]]:
    """Return the scores of each value of each key, averaged over seeds; groups counts its units."""
    found: dict[str, dict[str, Any]] = {}
    for key, names in seeds[0].groups.items():
        found[key] = {}
        values = np.array(names, dtype=object)
        for value in in_order(key, names):
            chosen = values == value  # (N,) bool
            scores: dict[str, Any] = {"n": int(chosen.sum()), "groups": len(np.unique(units.index[chosen]))}
            for metric in BY_METRICS:
                scores[metric] = _mean_score(seeds, chosen, metric, num_classes)
            found[key][value] = scores
    return found


def _mean_score(seeds: Sequence[ScoredUtterances], chosen: Array, metric: str, num_classes: int) -> float:
    """Return a metric of the chosen utterances (N,) bool, averaged over seeds."""
    total = 0.0
    for seed in seeds:
        cells = seed.targets[chosen] * num_classes + seed.predictions[chosen]
        confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
        total += float(score(confusion, metric))
    return total / len(seeds)
