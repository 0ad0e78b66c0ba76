"""Table of a recipe: the published scores beside those of the study, with intervals over speakers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.progress import Reporter
from mervn.evaluation.intervals import MIN_INTERVAL_UNITS, Interval, jackknife_interval
from mervn.study.cells import describe
from mervn.study.recipe_checks import DataCheck, check_data
from mervn.study.recipes import Paper, PaperValue, check_values, read_paper
from mervn.study.study_plan import Plan
from mervn.study.study_scores import RowScores
from mervn.study.tables import NO_VALUE, Tables

TEXT_FILE, VALUES_FILE = "recipe.md", "recipe.csv"
HEADER = ("row", "metric", "paper", "ours", "95 % interval", "same split?", "paper inside?")
NOT_COMPARABLE, NO_INTERVAL = "not comparable", "no interval"
CAPTION = (
    "Ours: mean over seeds, on test. Intervals: delete-one-unit jackknife over {units}. Same split: yes only if the "
    "manifests show everything that the recipe expects of the data; which utterances the paper used is not compared. "
    "Paper inside: whether the interval contains the published score, or one within the bound; given only for the "
    "same split. The paper's own uncertainty is not known."
)


@dataclass(frozen=True)
class Recipe:
    """The [paper] part of a study, and the check of its data for each row."""

    paper: Paper
    output: Path
    checks: Sequence[DataCheck]


@dataclass(frozen=True)
class Line:
    """One metric of one row."""

    axes: Mapping[str, Any]
    metric: str
    paper: PaperValue | None
    ours: float | None
    interval: Interval | None
    """None with fewer than 4 speakers, and if the speakers are unknown."""
    same_split: str

    @property
    def inside(self) -> str:
        """Tell whether the interval contains a score that the paper states, or why it is no answer."""
        if self.paper is None or self.ours is None:
            return NO_VALUE
        if self.interval is None:
            return f"{NO_INTERVAL}: fewer than {MIN_INTERVAL_UNITS} known speakers"
        if self.interval.low == self.interval.high:  # as for a perfect score; it does not mean certainty
            return f"{NO_INTERVAL}: width 0"
        if self.same_split != "yes":
            return NOT_COMPARABLE
        contains = self.interval.low <= self.paper.high and self.paper.low <= self.interval.high
        return "yes" if contains else "no"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object, which is also one line of recipe.csv."""
        return {
            "row": describe(self.axes),
            "metric": self.metric,
            "paper": str(self.paper) if self.paper else None,
            "ours": self.ours,
            "low": self.interval.low if self.interval else None,
            "high": self.interval.high if self.interval else None,
            "unit": self.interval.unit if self.interval else None,
            "groups": self.interval.groups if self.interval else None,
            "same_split": self.same_split,
            "paper_inside": self.inside,
        }

    def cells(self) -> list[str]:
        """Return the cells of the table for people."""
        interval = f"{self.interval.low:.4f} to {self.interval.high:.4f}" if self.interval else NO_VALUE
        ours = NO_VALUE if self.ours is None else f"{self.ours:.4f}"
        paper = str(self.paper) if self.paper else NO_VALUE
        return [describe(self.axes), self.metric, paper, ours, interval, self.same_split, self.inside]


@dataclass(frozen=True)
class RecipeTable:
    """The published scores beside those of a study."""

    recipe: Recipe
    lines: Sequence[Line]

    @property
    def caption(self) -> str:
        """Return how the columns are meant."""
        units = {f"{line.interval.groups} units ({line.interval.unit})" for line in self.lines if line.interval}
        return CAPTION.format(units=" or ".join(sorted(units)) or "speakers; at least 4 known speakers are needed")


def open_recipe(plan: Plan, reporter: Reporter) -> Recipe | None:
    """Read the [paper] part of a study, check its data and print what was found.

    None for a grid without this part. UsageError if the part and the grid do not fit.
    """
    paper = read_paper(plan.grid.path)
    if paper is None:
        return None
    check_values(paper, plan.grid)
    folds = sorted({cell.fold for cell in plan.cells if cell.fold is not None})
    known: dict[str, DataCheck] = {}
    checks = []
    for row in plan.rows:
        if row.is_baseline:
            continue
        options = row.candidates[0].options
        key = repr((options.labels, options.label_map, options.drop_label))
        if key not in known:
            known[key] = check_data(paper.expects, options, plan.data, folds, with_test=plan.options.test)
            for text in _check_lines(paper, plan.data, known[key]):
                reporter.say(text)
        checks.append(known[key])
    return Recipe(paper, plan.output, checks)


def _check_lines(paper: Paper, data: Path, check: DataCheck) -> Iterator[str]:
    """Yield what a check of the data found, for people."""
    yield f"published: {paper.source}; {paper.protocol}"
    for each in check.checks:
        yield f"  {each.status}: {each.text}"
    for note in check.notes:
        yield f"  note: {note}"
    if check.same_split.startswith("no"):
        yield f"warning: {data} does not hold the data of the published scores: they cannot be compared with yours"


def compare_with_paper(recipe: Recipe, tables: Tables, reporter: Reporter) -> RecipeTable | None:
    """Write recipe.md and recipe.csv and return the table; None if test was not read."""
    if tables.split != "test":
        reporter.say("the published scores are of test, so they are not compared; add --test")
        return None
    lines = []
    of_grid = [scores for scores in tables.scores if not scores.row.is_baseline]
    for scores, check in zip(of_grid, recipe.checks, strict=True):
        for metric in recipe.paper.metrics:
            lines.append(_line(scores, check, recipe.paper, metric))
    table = RecipeTable(recipe, lines)
    write_atomically(recipe.output / VALUES_FILE, _csv(lines))
    write_atomically(recipe.output / TEXT_FILE, "\n".join(_markdown(table)) + "\n")
    return table


def _line(scores: RowScores, check: DataCheck, paper: Paper, metric: str) -> Line:
    """Return a line of the table: the interval is of this metric, of the mean over seeds."""
    pooled, same_split, interval = scores.pooled, check.same_split, None
    if pooled is not None:
        if not pooled.units.independent:
            interval = jackknife_interval(pooled.stacked(list(pooled.confusions)), pooled.units, metric)
        if len(pooled.keys) != check.num_test:
            same_split = f"no: {len(pooled.keys)} of {check.num_test} test utterances were scored"
    axes = scores.row.axes
    return Line(axes, metric, paper.value_of(axes, metric), scores.mean(metric), interval, same_split)


def _csv(lines: Sequence[Line]) -> str:
    """Return recipe.csv; numbers have 6 decimals, what does not exist is empty."""
    text = io.StringIO()
    entries = [line.as_json() for line in lines]
    writer = csv.DictWriter(text, entries[0], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({key: f"{each:.6f}" if isinstance(each, float) else each for key, each in entry.items()})
    return text.getvalue()


def _markdown(table: RecipeTable) -> Iterator[str]:
    """Yield the lines of recipe.md."""
    paper = table.recipe.paper
    yield from (f"Source: {paper.source}, {paper.table}.", "", f"Protocol: {paper.protocol}.", "")
    for cells in (HEADER, ["---"] * len(HEADER), *(line.cells() for line in table.lines)):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield from ("", table.caption)
    if paper.differs:
        yield from ("", "This grid differs from the protocol:", "", *(f"- {each}" for each in paper.differs))
    yield from ("", "Data:", "")
    for check in dict.fromkeys(table.recipe.checks):
        yield from (f"- {each.status}: {each.text}" for each in check.checks)
        yield from (f"- note: {note}" for note in check.notes)
