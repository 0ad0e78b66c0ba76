"""Measure whether intervals and paired tests keep their promises on simulated speakers.

    python benchmarks/benchmark_intervals.py [--tiny] [--json]

Does a 95 % interval cover the truth in 95 % of all test sets? Does the paired test find a difference
between equal models in at most 5 % of them? The figures come from 1000 simulated test sets each.

Model. Each speaker has class frequencies (Dirichlet, concentration 8) and a confusion matrix: the
logits of the population's confusion matrix, plus the speaker's own difficulty, N(0, 0.6), on the
right class of all four classes, plus N(0, 0.6) on each cell. Predictions are multinomial. Two models
that are compared share the speakers' class frequencies and difficulties; the noise on the cells is
their own. Speakers have 60 utterances on average: all 60 (equal), or as many as 1, 1/2, 1/3, ... are
in proportion (unequal: with 5 speakers, the largest has 44 % of the test set, with 30 it has 25 %).

Truth. The metric of the expected confusion matrix of an infinite population of speakers, estimated
from 400 000 speakers without sampling of utterances; its standard error is below 0.0005. Sizes do
not depend on the speaker, so they do not change the truth.

A coverage is the lowest of macro-F1, accuracy and UAR. For comparison, the percentile bootstrap of
utterances with equal speakers, its best case; its figure is the highest of the three metrics.

False positives are the highest fraction of p < 0.05 over the metrics and two kinds of models with
equal scores: with the same expected confusion matrix, and with its classes exchanged in a circle,
so that the models err on different classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from report import Figure, report
from scipy.optimize import brentq
from scipy.special import softmax

from mervn.evaluation.intervals import (
    Units,
    group_units,
    jackknife_interval,
    mcnemar_mid_p,
    paired_difference,
    score,
)

Array = np.ndarray[Any, Any]
METRICS = ("macro_f1", "accuracy", "uar")
CONFUSION = ((0.72, 0.13, 0.09, 0.06), (0.14, 0.64, 0.14, 0.08), (0.12, 0.16, 0.60, 0.12), (0.10, 0.14, 0.22, 0.54))
LOGITS = np.log(np.array(CONFUSION))
NUM_CLASSES = len(LOGITS)
UNEVEN, EVEN = np.array([0.4, 0.3, 0.2, 0.1]), np.full(NUM_CLASSES, 0.25)
CONCENTRATION, DIFFICULTY, CELL_NOISE = 8.0, 0.6, 0.6
MEAN_SIZE = 60
LEVEL = 0.95


@dataclass(frozen=True)
class Scale:
    """Number of simulated things."""

    groups: tuple[int, ...]
    pairs_groups: tuple[int, ...]
    power_groups: int
    repetitions: int
    draws: int
    population: int


FULL = Scale((5, 10, 20, 30), (6, 10, 20, 30), 20, 1000, 400, 400_000)
TINY = Scale((5, 10), (6, 10), 8, 20, 40, 4_000)


def speaker_sizes(num: int, unequal: bool) -> Array:
    """Return the number of utterances of each speaker, (G,) int64."""
    weights = 1 / np.arange(1, num + 1) if unequal else np.ones(num)
    return np.round(MEAN_SIZE * num * weights / weights.sum()).astype(np.int64)


def units_of(sizes: Array) -> Units:
    """Return the units of speakers with these sizes."""
    return group_units([f"{speaker:03d}" for speaker in np.repeat(np.arange(len(sizes)), sizes)])


def draw_speakers(
    rng: np.random.Generator, shape: tuple[int, ...], prior: Array, models: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Draw class frequencies (*shape, C) of speakers, and their confusion probabilities (*shape, C, C) by model.

    models: the logits (C, C) of the population's confusion matrices.
    """
    frequencies = rng.dirichlet(CONCENTRATION * prior, shape)
    difficulty = rng.normal(0, DIFFICULTY, (*shape, 1, 1)) * np.eye(NUM_CLASSES)
    confusions = []
    for logits in models:
        noise = rng.normal(0, CELL_NOISE, (*shape, NUM_CLASSES, NUM_CLASSES))
        confusions.append(softmax(logits + difficulty + noise, axis=-1))
    return frequencies, confusions


def expected_confusion(prior: Array, logits: Array, speakers: int) -> Array:
    """Return the mean confusion matrix (C, C) of many speakers."""
    frequencies, (confusions,) = draw_speakers(np.random.default_rng(1), (speakers,), prior, [logits])
    return np.asarray((frequencies[..., None] * confusions).mean(0))


def draw_test_sets(rng: np.random.Generator, sizes: Array, repetitions: int) -> Array:
    """Return counts (R, G, C, C) of a model on test sets with uneven classes."""
    frequencies, (confusions,) = draw_speakers(rng, (repetitions, len(sizes)), UNEVEN, [LOGITS])
    return np.asarray(rng.multinomial(rng.multinomial(sizes, frequencies), confusions))


def draw_pairs(rng: np.random.Generator, sizes: Array, repetitions: int, models: Sequence[Array]) -> Array:
    """Return counts (R, G, C, C, C) of true class, prediction of A and prediction of B, with even classes."""
    frequencies, (first, second) = draw_speakers(rng, (repetitions, len(sizes)), EVEN, models)
    joint = first[..., :, None] * second[..., None, :]  # (R, G, C, C, C)
    flat = joint.reshape(*joint.shape[:3], -1)
    return np.asarray(rng.multinomial(rng.multinomial(sizes, frequencies), flat).reshape(joint.shape))


def jackknife_coverage(counts: Array, units: Units, truth: dict[str, float]) -> list[float]:
    """Return by metric the fraction of test sets whose jackknife interval contains the truth."""
    covered = []
    for metric, value in truth.items():
        intervals = [jackknife_interval(confusions, units, metric, LEVEL) for confusions in counts]
        inside = [interval is not None and interval.low <= value <= interval.high for interval in intervals]
        covered.append(float(np.mean(inside)))
    return covered


def bootstrap_coverage(rng: np.random.Generator, counts: Array, draws: int, truth: dict[str, float]) -> list[float]:
    """Return by metric the fraction of test sets whose percentile bootstrap interval contains the truth."""
    inside: dict[str, list[bool]] = {metric: [] for metric in truth}
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    for total in counts.sum(1):
        drawn = rng.multinomial(total.sum(), total.ravel() / total.sum(), draws).reshape(draws, *total.shape)
        for metric, value in truth.items():
            low, high = np.quantile(score(drawn, metric), tails)
            inside[metric].append(bool(low <= value <= high))
    return [float(np.mean(values)) for values in inside.values()]


def measure_intervals(scale: Scale) -> list[Figure]:
    """Return the coverage of intervals with equal and unequal speakers."""
    expected = expected_confusion(UNEVEN, LOGITS, scale.population)
    truth = {metric: float(score(expected, metric)) for metric in METRICS}
    rng = np.random.default_rng(0)
    figures, highest = [], 0.0
    for groups in scale.groups:
        for kind in ("equal", "unequal"):
            sizes = speaker_sizes(groups, kind == "unequal")
            counts = draw_test_sets(rng, sizes, scale.repetitions)
            found = jackknife_coverage(counts, units_of(sizes), truth)
            highest = max(highest, *found)
            goal = 0.87 if (groups, kind) == (5, "unequal") else 0.90
            what = f"coverage of 95 % intervals, {groups} {kind} speakers: " + by_metric(found)
            figures.append(Figure(f"intervals.coverage.{groups}.{kind}", what, min(found), goal, "higher"))
            if kind == "equal":
                found = bootstrap_coverage(rng, counts, scale.draws, truth)
                what = f"the same for the bootstrap of utterances: {by_metric(found)}"
                figures.append(Figure(f"intervals.bootstrap.{groups}", what, max(found), 0.80, "lower"))
    what = "highest coverage of a jackknife interval, over metrics, sizes and numbers of speakers"
    return [*figures, Figure("intervals.highest", what, highest, 0.98, "lower")]


def by_metric(values: list[float]) -> str:
    """Return values with the names of their metrics."""
    return ", ".join(f"{metric} {value:.3f}" for metric, value in zip(METRICS, values, strict=True))


def significant(pairs: Array, units: Units, metric: str) -> tuple[float, float]:
    """Return the fraction of pairs with p < 0.05, and the fraction whose interval contains a difference of 0."""
    small, covered = [], []
    for joint in pairs:
        found = paired_difference(joint.sum(-1), joint.sum(-2), units, metric, LEVEL)
        small.append(found.p is not None and found.p < 0.05)
        covered.append(found.interval is not None and found.interval.low <= 0 <= found.interval.high)
    return float(np.mean(small)), float(np.mean(covered))


def mcnemar_false_positives(pairs: Array) -> float:
    """Return the fraction of pairs for which McNemar's test over utterances gives p < 0.05."""
    each = np.arange(NUM_CLASSES)
    found = []
    for joint in pairs.sum(1):  # (C, C, C)
        both = joint[each, each, each].sum()
        only_a, only_b = (int(np.trace(joint.sum(axis)) - both) for axis in (-1, -2))
        found.append(mcnemar_mid_p(only_a, only_b) < 0.05)
    return float(np.mean(found))


def measure_equal_models(scale: Scale) -> list[Figure]:
    """Return false positives of the comparison of models with equal scores."""
    rng = np.random.default_rng(2)
    shifted = np.roll(LOGITS, (1, 1), axis=(0, 1))  # the same scores, for classes are even
    figures = []
    for groups in scale.pairs_groups:
        sizes = speaker_sizes(groups, unequal=True)
        positives, covered, mcnemar = [], [], []
        for other in (LOGITS, shifted):
            pairs = draw_pairs(rng, sizes, scale.repetitions, [LOGITS, other])
            mcnemar.append(mcnemar_false_positives(pairs))
            for metric in METRICS:
                small, inside = significant(pairs, units_of(sizes), metric)
                positives.append(small)
                covered.append(inside)
        same, exchanged = by_metric(positives[:3]), by_metric(positives[3:])
        what = f"p < 0.05 for equal models, {groups} unequal speakers: {same}; other classes: {exchanged}"
        figures.append(Figure(f"compare.false_positive.{groups}", what, max(positives), 0.07, "lower"))
        what = "intervals of a difference that contain the true difference 0, the lowest fraction"
        figures.append(Figure(f"compare.coverage.{groups}", what, min(covered), None, "higher"))
        what = "the same false positives for McNemar's test over utterances"
        figures.append(Figure(f"compare.mcnemar.{groups}", what, max(mcnemar), None, "lower"))
    return figures


def measure_power(scale: Scale) -> list[Figure]:
    """Return the power at the difference that `smallest_difference` promises to show, and identical models."""
    rng, metric = np.random.default_rng(3), "macro_f1"
    sizes = speaker_sizes(scale.power_groups, unequal=False)
    units = units_of(sizes)
    promised, identical = [], []
    for joint in draw_pairs(rng, sizes, max(scale.repetitions // 5, 5), [LOGITS, LOGITS]):
        a, b = joint.sum(-1), joint.sum(-2)
        promised.append(paired_difference(a, b, units, metric, LEVEL).smallest_difference or 0.0)
        same = paired_difference(a, a, units, metric, LEVEL)
        identical.append(same.p is None or same.p < 0.05 or same.difference != 0)
    difference = float(np.median(promised))
    best = float(score(expected_confusion(EVEN, LOGITS, scale.population // 4), metric))

    def surplus(shift: float) -> float:
        """Return the true difference minus the promised one, if B's logits of the right class are lower by `shift`."""
        worse = expected_confusion(EVEN, LOGITS - shift * np.eye(NUM_CLASSES), scale.population // 4)
        return best - float(score(worse, metric)) - difference

    shift = brentq(surplus, 0.0, 3.0, xtol=1e-3)
    pairs = draw_pairs(rng, sizes, scale.repetitions, [LOGITS, LOGITS - shift * np.eye(NUM_CLASSES)])
    power, _ = significant(pairs, units, metric)
    what = f"p < 0.05 at a true difference of {difference:.3f} macro-F1, the median smallest_difference (0.80 promised)"
    return [
        Figure("compare.power", f"{what}, {scale.power_groups} speakers", power, 0.75, "higher"),
        Figure(
            "compare.identical", "identical models with p < 0.05 or a difference", float(np.mean(identical)), 0, "lower"
        ),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few test sets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    scale = TINY if tiny else FULL
    figures = [*measure_intervals(scale), *measure_equal_models(scale), *measure_power(scale)]
    report("intervals", figures, as_json)


if __name__ == "__main__":
    main()
