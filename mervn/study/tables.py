"""Tables of a study for people: the scores of its rows, differences, marginal effects, and a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mervn.evaluation.compare import SeedDifferences
from mervn.evaluation.intervals import MIN_INTERVAL_UNITS, Interval
from mervn.evaluation.verdict import BASELINES_NOTE, OVER_SEEDS_NOTE, count_units, flag_of, not_compared
from mervn.study.cells import describe, shown
from mervn.study.grid import key_of
from mervn.study.study_scores import METRIC, NO_EVIDENCE, Effect, RowScores, Study, marginal_effects

NO_VALUE = "-"
"""Stands for a number that does not exist, in table.md and table.tex."""
DIFFERENCE_HEADER = ("difference", "95 % interval", "over seeds", "p (Holm)")
REFERENCE = ("reference", "", "", "")


@dataclass(frozen=True)
class Tables:
    """The scores of a study on one split, and what their captions say."""

    split: str
    scores: Sequence[RowScores]
    effects: Sequence[Effect]
    failed: Mapping[str, str]
    seeds: int
    folds: int
    """0 without folds."""

    @property
    def has_baselines(self) -> bool:
        """True if the study has added baselines to the rows of the grid."""
        return any(scores.row.is_baseline for scores in self.scores)

    @property
    def caption(self) -> str:
        """Return how the numbers of the table were computed."""
        pooled = next((scores.pooled for scores in self.scores if scores.pooled is not None), None)
        over = f"mean ± sample standard deviation over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        parts = [f"Scores on {self.split}: {over}."]
        if self.folds:
            parts.append(f"Predictions of {self.folds} folds are pooled.")
        if pooled is not None:
            units = pooled.units
            over = f"{count_units(units.name, units.num)}, {units.effective:.1f} effective"
            parts.append(f"95 % intervals: delete-one-unit jackknife over {over}.")
            if units.num < MIN_INTERVAL_UNITS:
                parts[-1] = f"No intervals over {over}: they need at least {MIN_INTERVAL_UNITS}."
            if units.independent:
                parts.append("The units of the utterances are unknown: this assumes independent utterances.")
        reference = [scores for scores in self.scores if scores.row.is_reference]
        if reference:
            parts.append(f"Differences in macro-F1 are to {reference[0].row}; p is corrected by Holm's method.")
            if self.seeds > 1:
                parts.append(OVER_SEEDS_NOTE)
            parts += filter(None, [self._others(reference[0])])
        if self.has_baselines:
            parts.append(BASELINES_NOTE)
        parts.append("Every choice was made on valid.")
        if self.failed:
            count = "1 cell" if len(self.failed) == 1 else f"{len(self.failed)} cells"
            parts.append(f"{count} failed, see cells.csv.")
        return " ".join(parts)

    def _others(self, reference: RowScores) -> str:
        """Return which rows are not compared, because they scored other utterances; empty if there are none."""
        if reference.pooled is None:
            return ""
        others = []
        for scores in self.scores:
            if scores is not reference and scores.pooled is not None and scores.difference is None:
                others.append((str(scores.row), len(scores.pooled.keys)))
        return not_compared(others, len(reference.pooled.keys))


def make_tables(study: Study, split: str, failed: Mapping[str, str]) -> Tables:
    """Return the tables of a split: valid, or test if the chosen cells were evaluated on it."""
    scores = study.scores(split)
    seeds, folds = {cell.seed for cell in study.cells}, {cell.fold for cell in study.cells} - {None}
    return Tables(split, scores, marginal_effects(scores), failed, len(seeds), len(folds))


def table_lines(tables: Tables) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of the table for people; baselines are at the end."""
    axes = [key_of(name) for name in (tables.scores[0].row.axes if tables.scores else ())]
    kind = ["kind"] if tables.has_baselines else []
    tuned = ["tuned"] if any(scores.tuned for scores in tables.scores) else []
    linear = ["against linear"] if any(scores.row.linear is not None for scores in tables.scores) else []
    header = [*kind, *axes, *tuned, "seeds", "macro-F1", "95 % interval", *DIFFERENCE_HEADER]
    header += [*linear, "accuracy", "UAR", "s per cell"]
    lines = []
    for scores in tables.scores:
        values = [NO_VALUE if value is None else shown(value) for value in scores.row.axes.values()]
        line = [*([scores.kind] if kind else []), *values, *([describe(scores.tuned)] if tuned else [])]
        seeds = str(len(scores.pooled.confusions) if scores.pooled else 0)
        line += [seeds if scores.row.candidates else NO_VALUE, _mean_and_std(scores, METRIC)]
        line.append(_range(scores.interval))
        line += REFERENCE if scores.row.is_reference else _compared(scores)
        line += [_against_linear(scores)] if linear else []
        line += [_mean_and_std(scores, "accuracy"), _mean_and_std(scores, "uar"), _number(scores.seconds, ".1f")]
        lines.append(line)
    return header, lines


def _against_linear(scores: RowScores) -> str:
    """Return the difference to the linear head, its interval, and whether the row beats it."""
    found = scores.to_linear
    if found is None or found.interval is None or scores.against_linear == NO_EVIDENCE:
        return scores.against_linear or NO_VALUE
    flag = flag_of(scores.against_linear, found.interval.low)
    return f"{_number(found.difference, '+.3f')} ({_range(found.interval)}){flag}"


def effect_lines(tables: Tables) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of the marginal effects for people."""
    header = ["axis", "value", "pairs", "mean macro-F1", *DIFFERENCE_HEADER]
    lines = []
    for effect in tables.effects:
        compared = _compared(effect) if effect.pairs else REFERENCE
        lines.append(
            [key_of(effect.axis), shown(effect.value), str(effect.pairs or ""), _number(effect.mean), *compared]
        )
    return header, lines


def _compared(found: RowScores | Effect) -> list[str]:
    """Return what stands under `DIFFERENCE_HEADER`."""
    if found.difference is None:
        return [NO_VALUE] * len(DIFFERENCE_HEADER)
    intervals = [_range(found.difference.interval), _range(found.over_seeds)]
    return [_number(found.difference.difference, "+.3f"), *intervals, _number(found.p_holm)]


def _mean_and_std(scores: RowScores, metric: str) -> str:
    deviation = scores.deviation(metric)
    return _number(scores.mean(metric)) + (f" ± {deviation:.3f}" if deviation is not None else "")


def _range(interval: Interval | SeedDifferences | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval else NO_VALUE


def _number(value: float | None, form: str = ".3f") -> str:
    return NO_VALUE if value is None else format(value, form)
