"""The tables of a study: the choice on valid, intervals, differences and marginal effects.

Intervals and differences are of the mean score over seeds: a speaker is left out, or exchanged, in
all seeds at once. Seeds are no units of evidence.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mervn.evaluation.compare import SeedDifferences, over_seeds
from mervn.evaluation.intervals import (
    MIN_INTERVAL_UNITS,
    TIE,
    Interval,
    PairedDifference,
    holm,
    jackknife_interval,
    paired_difference,
    score,
)
from mervn.evaluation.verdict import BEATS, DOES_NOT_BEAT
from mervn.study.cells import Cell, Row
from mervn.study.pooled_scores import Array, Pooled, pool, read_run
from mervn.study.study_baselines import Answers, label_key, majority_predictions, majority_row

METRIC = "macro_f1"
"""The metric of the selection, the intervals and the differences."""
NO_INTERVAL = f"no interval: fewer than {MIN_INTERVAL_UNITS} units"
NO_EVIDENCE = "no interval: the difference is the same without any unit"
NOT_COMPARED = "not compared: other utterances, or no complete cells"


@dataclass(frozen=True)
class RowScores:
    """One row of the table."""

    row: Row
    tuned: Mapping[str, Any]
    """The tuned values that were chosen on valid."""
    chosen: int
    """The index of the candidate."""
    pooled: Pooled | None
    """None if no seed is complete."""
    seconds: float | None
    """Mean training time of a cell in seconds."""
    interval: Interval | None = None
    difference: PairedDifference | None = None
    """To the reference; None for the reference itself."""
    p_holm: float | None = None
    """Corrected for the rows of the grid; None for baselines."""
    over_seeds: SeedDifferences | None = None
    """The differences to the reference of paired seeds; None for fewer than two."""
    to_linear: PairedDifference | None = None
    """To the linear head on the same features."""
    linear_over_seeds: SeedDifferences | None = None
    """The same of paired seeds; None for fewer than two."""

    @property
    def kind(self) -> str:
        """`head`, `linear` or `majority`."""
        if not self.row.candidates:
            return "majority"
        return "linear" if self.row.candidates[self.chosen].resolved.fusion.linear else "head"

    @property
    def against_linear(self) -> str:
        """The verdict on the difference to the linear head; empty if there is none."""
        if self.row.linear is None:
            return ""
        if self.to_linear is None:
            return NOT_COMPARED
        if self.to_linear.interval is None:
            return NO_INTERVAL
        if self.to_linear.interval.high - self.to_linear.interval.low <= TIE:
            return NO_EVIDENCE
        seeds = self.linear_over_seeds
        beats = self.to_linear.interval.low > TIE and (seeds is None or seeds.low > TIE)
        return BEATS if beats else DOES_NOT_BEAT

    def mean(self, metric: str = METRIC) -> float | None:
        """Return the mean over seeds."""
        return statistics.mean(self.pooled.scores(metric)) if self.pooled else None

    def deviation(self, metric: str = METRIC) -> float | None:
        """Return the sample standard deviation over seeds; None for fewer than two."""
        scores = self.pooled.scores(metric) if self.pooled else []
        return statistics.stdev(scores) if len(scores) > 1 else None


@dataclass(frozen=True)
class Effect:
    """Marginal effect of one value of an axis, against the value of the reference.

    It compares rows that differ in this axis only.
    """

    axis: str
    value: Any
    pairs: int
    """Number of such pairs of rows; 0 for the value of the reference."""
    mean: float | None
    """Mean score of all rows with this value."""
    difference: PairedDifference | None = None
    over_seeds: SeedDifferences | None = None
    """The mean difference of the pairs for each seed that all of them have; None for fewer than two."""
    p_holm: float | None = None


@dataclass(frozen=True)
class Study:
    """The cells of a study by row and candidate, and which of them are complete."""

    rows: Sequence[Row]
    cells: Sequence[Cell]
    complete: frozenset[str]
    unit: str = "speaker_id"
    """The manifest key of the unit of evidence."""
    majority: Answers = field(default_factory=dict)
    """The most frequent label of train; without it, the table has no majority."""
    _pooled: dict[tuple[int, int, str], Pooled | None] = field(default_factory=dict)

    def of(self, row: int, candidate: int) -> list[Cell]:
        """Return the cells of a candidate."""
        return [cell for cell in self.cells if (cell.row, cell.candidate) == (row, candidate)]

    def pooled(self, row: int, candidate: int, split: str) -> Pooled | None:
        """Return the predictions of a candidate; None if no seed is complete."""
        key = row, candidate, split
        if key not in self._pooled:
            found = pool(self.of(row, candidate), self.complete, split, self.unit)
            if found is not None and self.rows[row].candidates[candidate].resolved.fusion.linear:
                found = replace(found, has_seeds=False)
            self._pooled[key] = found
        return self._pooled[key]

    def choose(self, row: int) -> int:
        """Return the best candidate of a row on valid; of equal ones the first.

        Candidates with fewer incomplete seeds come first: a failed cell must not decide by luck.
        """
        ranks = []
        for candidate in range(len(self.rows[row].candidates)):
            pooled = self.pooled(row, candidate, "valid")
            scores = pooled.scores(METRIC) if pooled else []
            incomplete = len({cell.seed for cell in self.of(row, candidate)}) - len(scores)
            ranks.append((bool(scores), -incomplete, statistics.mean(scores) if scores else 0.0, -candidate))
        return -max(ranks)[3]

    def scores(self, split: str) -> list[RowScores]:
        """Return the table of a split: valid, or test if it was read; the majority comes last."""
        table = []
        for number, row in enumerate(self.rows):
            chosen = self.choose(number)
            pooled = self.pooled(number, chosen, split)
            seconds = _mean_seconds([cell for cell in self.of(number, chosen) if cell.name in self.complete])
            tuned = row.candidates[chosen].tuned
            table.append(RowScores(row, tuned, chosen, pooled, seconds, _interval(pooled)))
        return _with_differences([*table, *self._majorities(table)])

    def _majorities(self, table: Sequence[RowScores]) -> list[RowScores]:
        """Return the majority of each distinct choice of labels, on the utterances of one row.

        That is the reference if it has these labels, else the first row.
        """
        found: dict[str, RowScores] = {}
        for scores in sorted(table, key=lambda scores: not scores.row.is_reference):
            key = label_key(scores.row.candidates[scores.chosen].options)
            if self.majority and scores.pooled is not None and key not in found:
                pooled = majority_predictions(scores.pooled, key, self.majority)
                found[key] = RowScores(majority_row(scores.row), {}, 0, pooled, None, _interval(pooled))
        return list(found.values())


def _interval(pooled: Pooled | None) -> Interval | None:
    """Return the interval of the mean over seeds."""
    if pooled is None:
        return None
    return jackknife_interval(pooled.stacked(list(pooled.confusions)), pooled.units, METRIC)


def _mean_seconds(cells: Sequence[Cell]) -> float | None:
    seconds = [read_run(cell.run)[1] for cell in cells]
    return statistics.mean(seconds) if seconds else None


def _with_differences(table: list[RowScores]) -> list[RowScores]:
    """Add the differences of each row to the reference and to its linear head.

    Holm's correction is over the rows of the grid: baselines are no hypotheses of it.
    """
    reference = next((scores for scores in table if scores.row.is_reference), None)
    differences = []
    for scores in table:
        differences.append((None, None) if scores is reference else _difference([(scores, reference)]))
    of_grid = [None if scores.row.is_baseline else one for scores, (one, _) in zip(table, differences, strict=True)]
    found = []
    for scores, (difference, seeds), p in zip(table, differences, _holm(of_grid), strict=True):
        linear = scores.row.linear
        to_linear, of_linear = (None, None) if linear is None else _difference([(scores, table[linear])])
        found.append(
            replace(
                scores, difference=difference, over_seeds=seeds, p_holm=p, to_linear=to_linear,
                linear_over_seeds=of_linear,
            )
        )  # fmt: skip
    return found


def _difference(
    pairs: Sequence[tuple[RowScores, RowScores | None]],
) -> tuple[PairedDifference | None, SeedDifferences | None]:
    """Compare the first of all pairs with the second, on the seeds that both have: by units, and by seeds.

    None if a pair scored other utterances, or another number of classes than the other pairs.
    """
    first: list[Array] = []
    second: list[Array] = []
    known: Pooled | None = None
    by_seed: dict[int, list[float]] = {}
    for a, b in pairs:
        pooled, other = a.pooled, b.pooled if b is not None else None
        known = known or pooled
        if known is None or pooled is None or other is None or not pooled.is_like(known):
            return None, None
        seeds = pooled.comparable(other)
        if not seeds:
            return None, None
        first.append(pooled.stacked(seeds))
        second.append(other.stacked(seeds))
        gaps = score(first[-1].sum(0), METRIC) - score(second[-1].sum(0), METRIC)  # (K,)
        for seed, gap in zip(seeds, gaps.tolist(), strict=True):
            by_seed.setdefault(seed, []).append(gap)
    if known is None:
        return None, None
    means = [statistics.fmean(found) for found in by_seed.values() if len(found) == len(pairs)]
    has_seeds = any(scores.pooled and scores.pooled.has_seeds for pair in pairs for scores in pair if scores)
    paired = paired_difference(np.concatenate(first, 1), np.concatenate(second, 1), known.units, METRIC)
    return paired, over_seeds(means) if has_seeds else None


def _holm(differences: Sequence[PairedDifference | None]) -> list[float | None]:
    """Return the p of each difference, corrected for the number of tests; None without a test."""
    tested = [i for i, each in enumerate(differences) if each is not None and each.p is not None]
    adjusted: list[float | None] = [None] * len(differences)
    for i, p in zip(tested, holm([_p(differences[i]) for i in tested]), strict=True):
        adjusted[i] = p
    return adjusted


def _p(difference: PairedDifference | None) -> float:
    if difference is None or difference.p is None:
        raise ValueError("the difference has no test")
    return difference.p


def marginal_effects(table: Sequence[RowScores]) -> list[Effect]:
    """Return the marginal effect of each value of each axis, in the order of the rows of the grid."""
    table = [scores for scores in table if not scores.row.is_baseline]
    reference = next((scores.row.axes for scores in table if scores.row.is_reference), None)
    if reference is None:
        return []
    effects = []
    for axis in reference:
        values: dict[str, list[RowScores]] = {}
        for scores in table:
            values.setdefault(repr(scores.row.axes[axis]), []).append(scores)
        for scored in values.values():
            effects.append(_effect(axis, scored, values[repr(reference[axis])]))
    adjusted = _holm([effect.difference for effect in effects])
    found = []
    for effect, p in zip(effects, adjusted, strict=True):
        found.append(replace(effect, p_holm=p))
    return found


def _effect(axis: str, scored: Sequence[RowScores], of_reference: Sequence[RowScores]) -> Effect:
    """Compare rows with one value of an axis with those that have the value of the reference."""
    means = [scores.mean() for scores in scored]
    known = [mean for mean in means if mean is not None]
    pairs = []
    for scores in scored:
        for partner in of_reference:
            if partner is not scores and _without(axis, partner.row) == _without(axis, scores.row):
                pairs.append((scores, partner))
    difference, seeds = _difference(pairs) if pairs else (None, None)
    mean = statistics.mean(known) if known else None
    return Effect(axis, scored[0].row.axes[axis], len(pairs), mean, difference, seeds)


def _without(axis: str, row: Row) -> dict[str, Any]:
    """Return the values of a row on all other axes."""
    return {name: value for name, value in row.axes.items() if name != axis}
