"""`compare`: difference of a metric between two runs, or two series of seeds or folds.

Two sources of chance are kept apart. Speakers: interval and test of the mean over seeds, by unit
(`mervn.evaluation.intervals`). Seeds: a t interval of the differences of paired seeds (Bouthillier
et al. 2021, "Accounting for Variance in Machine Learning Benchmarks").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from features.canonical import differing_fields
from mervn.config import CompareOptions
from mervn.evaluation.baselines import baselines
from mervn.evaluation.evidence import stacked_confusions
from mervn.evaluation.intervals import (
    INDEPENDENT,
    POWER,
    PairedDifference,
    Units,
    group_units,
    paired_difference,
    score,
)
from mervn.evaluation.paired_predictions import PairedPredictions, pair_predictions
from mervn.evaluation.series import Series, read_series

Array = np.ndarray[Any, Any]
LEVEL = 0.95
MAX_SEEDS = 1_000
"""More seeds are never suggested."""
Verdict = Literal["difference", "no_difference", "seeds_disagree", "no_test"]
"""Whether A and B differ: shown; not shown; shown by the units, but not over the seeds; no test
possible."""


@dataclass(frozen=True)
class SeedDifferences:
    """Differences A minus B of a metric between runs with the same seed, for two or more seeds."""

    values: Sequence[float]
    mean: float
    std: float
    """Sample standard deviation (n - 1)."""
    low: float
    """Lower bound of the t interval of the mean."""
    high: float
    """Upper bound of the t interval of the mean."""
    seeds_needed: int | None
    """Number of seeds whose interval excludes 0 at the same mean and std; None above 1000."""
    smallest_difference: float
    """Smallest true difference that as many seeds show in 4 of 5 cases (power 0.8)."""


@dataclass(frozen=True)
class UnitDifference:
    """Difference A minus B with the units that interval and test rest on."""

    key: str
    """The key of --unit."""
    units: Units
    paired: PairedDifference

    @property
    def is_shown(self) -> bool:
        """True if the test rejects that A and B are equal, and the interval excludes 0."""
        interval, p = self.paired.interval, self.paired.p
        if interval is None or p is None or p > 1 - LEVEL:
            return False
        return interval.low > 0 or interval.high < 0

    @property
    def caution(self) -> tuple[bool, bool, bool, float]:
        """Sort key: no test, then no interval, then no difference shown, then a wider interval."""
        interval = self.paired.interval
        width = 0.0 if interval is None else interval.high - interval.low
        return self.paired.p is None, interval is None, not self.is_shown, width


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of A with B on one split."""

    a: Path
    b: Path
    split: str
    metric: str
    n: int
    """Number of utterances."""
    pairs: Sequence[tuple[int, int]]
    """Seed of A and seed of B of each pair."""
    left_out: Sequence[str]
    scores_a: Sequence[float]
    """Score of A for each pair."""
    scores_b: Sequence[float]
    """Score of B for each pair."""
    by_unit: Sequence[UnitDifference]
    """For each key of --unit, in order."""
    over_seeds: SeedDifferences | None
    """None for one pair of seeds."""
    configuration: Mapping[str, tuple[Any, Any]]
    """Fields of the configuration in which A and B differ, with both values."""
    baselines: Mapping[str, Mapping[str, Any]]
    """Scores of `chance` and `majority` on the same utterances."""
    paired: PairedPredictions
    """What the comparison rests on."""

    @property
    def decisive(self) -> UnitDifference:
        """The unit that the verdict rests on: the widest interval, unless another unit shows less."""
        return max(self.by_unit, key=lambda each: each.caution)

    @property
    def verdict(self) -> Verdict:
        """Answer to the question whether A and B differ."""
        if self.decisive.paired.p is None:
            return "no_test"
        if not self.decisive.is_shown:
            return "no_difference"
        seeds = self.over_seeds
        if seeds is not None and seeds.low <= 0 <= seeds.high:
            return "seeds_disagree"
        return "difference"


def compare(a: Path, b: Path, options: CompareOptions) -> Comparison:
    """Compare two runs, or series of seeds or folds, by their saved predictions for a split.

    Nothing is scored. Raises UsageError if a folder is neither run nor series, InputError if
    predictions are missing or damaged, or if A and B cannot be paired (`pair_predictions`).
    """
    series_a, series_b = read_series(a), read_series(b)
    paired = pair_predictions(series_a, series_b, options.split, options.unit)
    differences = []
    for key, values in paired.units.items():
        predictions, units = (paired.a, paired.b), group_units(values, key)
        differences.append(unit_difference(paired.targets, predictions, key, units, options.metric, len(paired.labels)))
    scores_a = seed_scores(paired, paired.a, options.metric)
    scores_b = seed_scores(paired, paired.b, options.metric)
    return Comparison(
        a, b, options.split, options.metric, len(paired.targets), paired.seeds, paired.left_out, scores_a, scores_b,
        differences, over_seeds([one - two for one, two in zip(scores_a, scores_b, strict=True)]),
        configuration_differences(series_a, series_b, paired.seeds[0]),
        baselines(np.bincount(paired.targets, minlength=len(paired.labels)), paired.labels), paired,
    )  # fmt: skip


def seed_scores(paired: PairedPredictions, seeds: Sequence[np.ndarray[Any, Any]], metric: str) -> list[float]:
    """Return the score of each seed over the utterances of all folds."""
    num_classes = len(paired.labels)
    found = []
    for predictions in seeds:
        cells = np.bincount(paired.targets * num_classes + predictions, minlength=num_classes**2)
        found.append(float(score(cells.reshape(num_classes, num_classes), metric)))
    return found


def unit_difference(
    targets: Array,
    predictions: tuple[Sequence[Array], Sequence[Array]],
    key: str,
    units: Units,
    metric: str,
    num_classes: int,
) -> UnitDifference:
    """Return the difference of the means over seeds, with interval and test by unit.

    targets: (N,) int64; predictions: of A and B, for each seed (N,) int64; key: of the units.
    """
    a = stacked_confusions(targets, predictions[0], units, num_classes)
    b = stacked_confusions(targets, predictions[1], units, num_classes)
    if len(predictions[0]) == 1 or not units.independent:
        return UnitDifference(key, units, paired_difference(a, b, units, metric))
    # McNemar's test is for one pair of predictions per utterance: with several seeds, flip signs
    found = paired_difference(a, b, replace(units, independent=False), metric)
    return UnitDifference(key, units, replace(found, test=f"{found.test}, {INDEPENDENT}"))


def over_seeds(differences: Sequence[float]) -> SeedDifferences | None:
    """Return the t interval of the mean difference over paired seeds; None for one seed."""
    count = len(differences)
    if count < 2:
        return None
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    half = _half_width(std, count)
    needed = next((n for n in range(2, MAX_SEEDS + 1) if _half_width(std, n) < abs(mean)), None)
    smallest = half + float(stats.t.ppf(POWER, count - 1)) * std / math.sqrt(count)
    return SeedDifferences(list(differences), mean, std, mean - half, mean + half, needed, smallest)


def _half_width(std: float, count: int) -> float:
    """Return half the width of the t interval of the mean of `count` differences."""
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * std / math.sqrt(count)


def configuration_differences(a: Series, b: Series, seeds: tuple[int, int]) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which the configurations of the runs of a pair of seeds differ.

    The models of the encoders are compared too. The hashes of the features are left out if their
    stores, encoders or manifests differ, because these explain them.
    """
    documents = []
    for series, seed in ((a, seeds[0]), (b, seeds[1])):
        config = series.configs[seed, series.folds[0]]
        documents.append({**config.configuration, "models": config.models})
    differing = differing_fields(*documents)
    causes = ("inputs.stores.", "inputs.encoders.", "inputs.manifests.", "inputs.folds.")
    if any(name.startswith(causes) for name in differing):
        differing = {name: pair for name, pair in differing.items() if not name.startswith("inputs.features.")}
    return differing
