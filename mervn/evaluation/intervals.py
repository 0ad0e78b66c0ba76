"""Confidence intervals and paired tests whose unit of evidence is the speaker, not the utterance.

Utterances of one speaker resemble each other, so a bootstrap of utterances gives intervals that are
much too narrow. Every method here takes one confusion matrix per unit (a speaker, a recording, a
sentence; an utterance only if nothing else is known) and sums over units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from features.random_streams import Purpose, generator
from features.text.normalize import normalize_text
from mervn.evaluation.metrics import ratio

Array = np.ndarray[Any, Any]
METRICS = ("accuracy", "macro_f1", "uar", "weighted_f1")
MIN_INTERVAL_UNITS, MIN_TEST_UNITS = 4, 6
"""Fewer units give no interval, or no test: the smallest p of a sign-flip test is 2 ** (1 - G)."""
MAX_EXACT_UNITS, DRAWS, DRAWS_AT_ONCE = 12, 9_999, 1_000
POWER = 0.8
"""Power at which `smallest_difference` is found."""
INDEPENDENT = "assumes independent utterances"
TIE = 1e-12
"""Differences of scores closer than this are equal: the same counts, summed in another order."""


@dataclass(frozen=True)
class Units:
    """Assignment of N utterances to G units of evidence."""

    name: str
    """The manifest key, such as `speaker_id`; `utterance` if every utterance is its own unit."""
    index: Array
    """Unit of each utterance, (N,) int64 in 0..G-1; units are sorted by name."""
    num: int
    """Number of units, G."""
    effective: float
    """Effective number of units, G* = (sum n)^2 / sum n^2 for units of n utterances."""
    independent: bool
    """Whether utterances are assumed independent, because no unit is known."""


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a metric, or of the difference of two."""

    low: float
    high: float
    level: float
    method: str
    unit: str
    groups: int
    effective_groups: float

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of a metric between two models on the same utterances, first minus second."""

    difference: float
    interval: Interval | None
    """None with fewer than 4 units."""
    p: float | None
    """Two-sided p of `test`; None with fewer than 6 units."""
    test: str
    """Name of the test, or why there is none."""
    groups: int
    effective_groups: float
    smallest_difference: float | None
    """Smallest true difference that such a test set shows in 4 of 5 cases (power 0.8) at this level.

    None if no test is possible, or if the models do not differ on any unit.
    """

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def unit_name(value: object) -> str:
    """Return the name of a value of a manifest key; empty for None. One text in two Unicode forms has one name."""
    return "" if value is None else normalize_text(str(value))


def group_units(values: Sequence[object], name: str = "speaker_id") -> Units:
    """Group N utterances by the values of a manifest key.

    None and "" are unknown. If all values are unknown or no value occurs twice, every utterance is
    its own unit and is assumed independent. If some are unknown, these utterances are one unit
    together: joining independent units keeps an interval valid, dividing dependent ones does not.
    """
    keys = np.array(list(map(unit_name, values)), dtype=object)
    known, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
    if not len(keys):
        raise ValueError("units need at least one utterance, found none")
    if len(known) == len(keys) or list(known) == [""]:
        return Units("utterance", np.arange(len(keys)), len(keys), float(len(keys)), independent=True)
    effective = float(counts.sum() ** 2 / (counts**2).sum())
    return Units(name, index.reshape(-1).astype(np.int64), len(known), effective, independent=False)


def unit_confusions(targets: Array, predictions: Array, units: Units, num_classes: int) -> Array:
    """Return counts (G, C, C) int64, [unit][true class][predicted class], of class indices (N,) int64."""
    if not len(targets) == len(predictions) == len(units.index):
        sizes = f"{len(targets)}, {len(predictions)} and {len(units.index)}"
        raise ValueError(f"targets, predictions and units must have one entry per utterance, found {sizes}")
    for what, classes in (("targets", targets), ("predictions", predictions)):
        if classes.min() < 0 or classes.max() >= num_classes:
            found = f"{classes.min()} to {classes.max()}"
            raise ValueError(f"{what} must be class indices from 0 to {num_classes - 1}, found {found}")
    cells = (units.index * num_classes + targets) * num_classes + predictions
    counts = np.bincount(cells, minlength=units.num * num_classes**2)
    return counts.reshape(units.num, num_classes, num_classes).astype(np.int64)


def score(confusion: Array, metric: str) -> Array:
    """Return a metric (...) float64 of confusion matrices (..., C, C), [true class][predicted class].

    The conventions are those of `mervn.evaluation.metrics`: macro-F1 and UAR average over the classes
    that occur, and a class that is never right has F1 0. No counts score 0.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)  # (..., C)
    support, predicted = confusion.sum(-1), confusion.sum(-2)
    if metric == "accuracy":
        return ratio(right.sum(-1), support.sum(-1))
    occurring = (support > 0).sum(-1)
    if metric == "uar":
        return ratio(ratio(right, support).sum(-1), occurring)
    f1 = ratio(2 * right, support + predicted)
    if metric == "macro_f1":
        return ratio(f1.sum(-1), occurring)  # the others are never right: F1 0
    if metric == "weighted_f1":
        return ratio((f1 * support).sum(-1), support.sum(-1))
    raise ValueError(f"metric must be one of {', '.join(METRICS)}, found {metric!r}")


def _mean_scores(confusions: Array, metric: str) -> Array:
    """Return a metric (N,) of N confusion matrices (N, C, C), or its mean over the K of (N, K, C, C)."""
    return np.asarray(score(confusions, metric).reshape(len(confusions), -1).mean(-1))


def jackknife_interval(confusions: Array, units: Units, metric: str, level: float = 0.95) -> Interval | None:
    """Return the delete-one-unit jackknife interval of a metric, or None below 4 units.

    The standard error is sqrt((G - 1) / G * sum_g (s_g - mean s)^2), where s_g is the score without
    unit g (Efron, Stein 1981); its factor is the quantile of t with G - 1 degrees of freedom
    (MacKinnon, Webb 2017). The interval is clipped to 0..1. If no unit changes the score, as with a
    perfect score, its width is 0; this does not mean that the score is certain, and `method` says so.

    confusions: (G, C, C) counts of `unit_confusions`, or (G, K, C, C) for the mean of K scores, such as
    of K seeds.
    """
    total = confusions.sum(0)
    error = _standard_error(_mean_scores(total - confusions, metric))
    return _interval(float(_mean_scores(total[None], metric)[0]), error, units, level, 0.0)


def paired_difference(a: Array, b: Array, units: Units, metric: str, level: float = 0.95) -> PairedDifference:
    """Compare models A and B on the same utterances: A minus B, its interval and a test.

    The interval is the jackknife of the difference. The test exchanges A and B per unit
    (`sign_flip_p`). For the accuracy of utterances that are assumed independent, it is McNemar's.

    a, b: (G, C, C) counts of `unit_confusions`, of the same units, or (G, K, C, C) for means of K scores.
    """
    if a.shape != b.shape or not np.array_equal(a.sum(-1), b.sum(-1)):
        raise ValueError("A and B must have the same utterances and labels in every unit")
    total_a, total_b = a.sum(0), b.sum(0)
    difference = float((_mean_scores(total_a[None], metric) - _mean_scores(total_b[None], metric))[0])
    error = _standard_error(_mean_scores(total_a - a, metric) - _mean_scores(total_b - b, metric))
    p, test = _paired_test(a, b, units, metric)
    smallest = None
    if p is not None and error > 0 and 2.0 ** (1 - units.num) <= 1 - level:
        degrees = units.num - 1
        smallest = error * float(stats.t.ppf((1 + level) / 2, degrees) + stats.t.ppf(POWER, degrees))
    interval = _interval(difference, error, units, level, -1.0)
    return PairedDifference(difference, interval, p, test, units.num, units.effective, smallest)


def _standard_error(without_one: Array) -> float:
    """Return the jackknife standard error of estimates (G,), each without one unit."""
    squares = ((without_one - without_one.mean()) ** 2).sum()
    error = float(np.sqrt((len(without_one) - 1) / len(without_one) * squares))
    return error if error > TIE else 0.0


def ratio_interval(numerators: Array, denominators: Array, units: Units, level: float = 0.95) -> Interval | None:
    """Return the delete-one-unit jackknife interval of a ratio of sums over N utterances, such as a word error rate.

    It is clipped at 0, and not at 1. None below 4 units, or if a single unit has the whole denominator.

    numerators, denominators: (N,) counts.
    """
    top, bottom = (np.bincount(units.index, counts, units.num) for counts in (numerators, denominators))
    without_one = bottom.sum() - bottom
    if (without_one == 0).any():
        return None
    error = _standard_error((top.sum() - top) / without_one)
    return _interval(float(top.sum() / bottom.sum()), error, units, level, 0.0, math.inf)


def _interval(
    estimate: float, error: float, units: Units, level: float, lowest: float, highest: float = 1.0
) -> Interval | None:
    """Return estimate -+ t * error, clipped to lowest..highest, or None below 4 units."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, found {level}")
    if units.num < MIN_INTERVAL_UNITS:
        return None
    half = float(stats.t.ppf((1 + level) / 2, units.num - 1)) * error
    method = "jackknife, " + (INDEPENDENT if units.independent else f"t({units.num - 1})")
    if error == 0:
        method += "; width 0: no unit changes the estimate"
    low, high = max(lowest, estimate - half), min(highest, estimate + half)
    return Interval(low, high, level, method, units.name, units.num, units.effective)


def _paired_test(a: Array, b: Array, units: Units, metric: str) -> tuple[float | None, str]:
    """Return p and the name of the test, or None and why there is no test."""
    if units.num < MIN_TEST_UNITS:
        return None, f"none: fewer than {MIN_TEST_UNITS} units ({units.name})"
    if units.independent and metric == "accuracy":
        more = (
            np.trace(a - b, axis1=-2, axis2=-1).reshape(units.num, -1).sum(-1)
        )  # 1 where only A is right, -1 where only B is
        return mcnemar_mid_p(int((more > 0).sum()), int((more < 0).sum())), f"mid-p McNemar, {INDEPENDENT}"
    test = f"sign flips by {units.name}"
    return sign_flip_p(a, b, metric), f"{test}, {INDEPENDENT}" if units.independent else test


def sign_flip_p(a: Array, b: Array, metric: str) -> float:
    """Return the two-sided p of a paired permutation test that exchanges A and B per unit.

    Exact if at most 12 units differ: the fraction of all exchanges with a difference at least as
    large as the observed one. Otherwise (k + 1) / (n + 1) for k of n = 9 999 draws with a fixed seed
    (Phipson, Smyth 2010). Units without a difference change no term, so they are left out.

    a, b: (G, C, C) counts of `unit_confusions`, of the same units, or (G, K, C, C) for means of K scores.
    """
    total = (a + b).sum(0)
    differs = (a != b).reshape(len(a), -1).any(1)
    change = (a - b)[differs].reshape(-1, total.size).astype(np.float64)  # (M, C * C)
    base = b.sum(0).ravel()

    def as_large(choices: Array) -> Array:
        """Return whether each choice (n, M) of units from A, the rest from B, differs enough."""
        first = (base + choices @ change).reshape(-1, *total.shape)
        difference = _mean_scores(first, metric) - _mean_scores(total - first, metric)
        return np.asarray(np.abs(difference) >= observed - TIE)

    totals = a.sum(0)[None], b.sum(0)[None]
    observed = abs(float((_mean_scores(totals[0], metric) - _mean_scores(totals[1], metric))[0]))
    if len(change) <= MAX_EXACT_UNITS:
        bits = np.arange(2 ** len(change))[:, None] >> np.arange(len(change)) & 1
        return float(as_large(bits.astype(np.float64)).mean())
    draws = generator(Purpose.EXCHANGE)
    count = 0
    for start in range(0, DRAWS, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, DRAWS - start), len(change)
        count += int(as_large(draws.integers(0, 2, size).astype(np.float64)).sum())
    return (count + 1) / (DRAWS + 1)


def mcnemar_mid_p(only_a: int, only_b: int) -> float:
    """Return the two-sided mid-p of McNemar's test (Fagerland, Lydersen, Laake 2013); 1 without discordant pairs.

    only_a, only_b: number of utterances that only A, or only B, classifies correctly.
    """
    fewer, both = min(only_a, only_b), only_a + only_b
    if fewer < 0:
        raise ValueError(f"counts must not be negative, found {only_a} and {only_b}")
    return float(2 * stats.binom.cdf(fewer, both, 0.5) - stats.binom.pmf(fewer, both, 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method (Holm 1979), in the given order."""
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must be from 0 to 1, found {list(p_values)}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
