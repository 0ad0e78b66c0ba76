"""`ablate`: train every cell of a grid, choose on valid, compare the rows in tables."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from features.cpu_threads import set_threads
from features.durations import duration
from features.progress import SILENT, Reporter, WithoutBars
from mervn.config import AblateOptions, EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.report.study_page import write_study_report
from mervn.result_folder import locked
from mervn.run_folder import METRICS_FILE, read_metrics
from mervn.study.cell_worker import Outcome
from mervn.study.cells import Cell
from mervn.study.missing_features import extract_missing
from mervn.study.pooled_scores import predictions_file, read_run
from mervn.study.study_plan import Plan, announce, find_complete, grid_json, jobs_of, make_plan
from mervn.study.study_run import LOGS_FOLDER, STATE_FILE, State, Workplace, run_cells
from mervn.study.study_scores import METRIC, Study
from mervn.study.tables import Tables, make_tables, write_tables

MEASURED_CELLS = 2
"""Number of cells that are timed before the time of all cells is estimated."""
SAVE_INTERVAL_S = 5.0
"""Seconds between two versions of state.json while cells complete; a failure is saved at once."""


@dataclass(frozen=True)
class StudyResult:
    """The folder of a study, and its tables; None for a dry run."""

    output: Path
    cells: int
    waiting: int
    """Number of cells that were not complete at the start."""
    tables: Tables | None = None


def ablate(path: Path, options: AblateOptions, data: Path, reporter: Reporter = SILENT) -> StudyResult:
    """Train the cells of a grid that are not complete yet, and write the tables of the study.

    Test is read only with `options.test`, after all cells are complete, and only for the candidate
    of each row that was chosen on valid. Raises UsageError for a grid that cannot be meant,
    InputError for data that cannot be used. A cell that fails is part of the result.
    """
    plan = make_plan(path, options, data)
    announce(plan, reporter)
    if options.dry_run:
        extract_missing(plan.missing, reporter, plan_only=True)
        if not plan.missing.selectors:
            find_complete(plan, reporter)
        waiting = [cell for cell in plan.cells if not (cell.run / METRICS_FILE).is_file()]
        reporter.say(f"{len(waiting)} cells would be trained; nothing was written")
        return StudyResult(plan.output, len(plan.cells), len(waiting))
    with locked(plan.output, STATE_FILE, "study"):
        state = State.open(plan.output, grid_json(plan.grid), plan.cells, retry=options.retry)
        extract_missing(plan.missing, reporter, plan_only=False)
        complete = find_complete(plan, reporter)
        for name in complete:
            state.complete(name)
        waiting = [cell for cell in plan.cells if state.cells[cell.name] == "waiting"]
        _run(plan, waiting, state, reporter)
        return StudyResult(plan.output, len(plan.cells), len(waiting), _finish(plan, state, reporter))


def _run(plan: Plan, waiting: Sequence[Cell], state: State, reporter: Reporter) -> None:
    """Train the waiting cells with a live line: cells done, best so far on valid, time left."""
    if not waiting:
        return
    options = plan.options
    jobs = min(jobs_of(options), len(waiting))
    place = Workplace(plan.data, jobs, options.threads or 1, plan.output / LOGS_FOLDER)
    total = len(plan.cells)
    with closing(reporter.progress(total, total - len(waiting), "cells", unit=" cells")) as bar:
        watch = _Watch(plan, waiting, state, jobs, reporter, bar)
        try:
            run_cells(waiting, place, watch.report)
        finally:
            state.save()


class _Watch:
    """Follows the cells: keeps the state, and shows the best one and the time left."""

    def __init__(
        self, plan: Plan, waiting: Sequence[Cell], state: State, jobs: int, reporter: Reporter, bar: Any
    ) -> None:
        self.plan, self.state, self.jobs, self.reporter, self.bar = plan, state, jobs, reporter, bar
        self.cells = {cell.name: cell for cell in plan.cells}
        self.left, self.estimated = len(waiting), False
        self.saved = time.monotonic()
        self.seconds: list[float] = []  # training times of the cells of this call
        self.best: tuple[float, str] | None = None
        self.warned: set[str] = set()
        for cell in plan.cells:
            if state.cells[cell.name] == "complete":
                self._rank(cell)

    def report(self, outcome: Outcome) -> None:
        """Note the outcome of a cell."""
        cell = self.cells[outcome.name]
        for text in outcome.warnings:
            if text not in self.warned:
                self.warned.add(text)
                self.reporter.say(f"warning: {text}")
        if outcome.error is None:
            self.state.complete(cell.name)
            self.seconds.append(read_run(cell.run)[1])
            self._rank(cell)
        else:
            self.state.fail(cell.name, outcome.error)
            self.reporter.say(f"failed: {self._describe(cell)} ({cell.name}): {outcome.error}")
        if outcome.error is not None or time.monotonic() - self.saved > SAVE_INTERVAL_S:
            self.state.save()
            self.saved = time.monotonic()
        self.left -= 1
        self._show()

    def _show(self) -> None:
        per_cell = fmean(self.seconds) / self.jobs if self.seconds else 0.0
        best = f"best valid macro-F1 {self.best[0]:.4f} ({self.best[1]})" if self.best else ""
        measured = len(self.seconds)
        left = f"about {duration(per_cell * self.left)} left" if measured >= MEASURED_CELLS and self.left else ""
        self.bar.set_postfix_str(", ".join(text for text in (best, left) if text), refresh=False)
        self.bar.update(1)
        if measured == MEASURED_CELLS and self.left and not self.estimated:
            self.estimated = True
            self.reporter.say(
                f"estimate from {MEASURED_CELLS} cells: about {duration(per_cell * self.left)} left for "
                f"{self.left} cells, {self.jobs} at a time"
            )

    def _rank(self, cell: Cell) -> None:
        score = float(read_metrics(cell.run)["valid"][METRIC])
        if self.best is None or score > self.best[0]:
            self.best = score, self._describe(cell)

    def _describe(self, cell: Cell) -> str:
        row = self.plan.rows[cell.row]
        fold = "" if cell.fold is None else f" fold={cell.fold}"
        return f"{row}{fold} seed={cell.seed}"


def _finish(plan: Plan, state: State, reporter: Reporter) -> Tables:
    """Evaluate the chosen cells on test, if asked for, and write the tables."""
    complete = frozenset(name for name, status in state.cells.items() if status == "complete")
    study = Study(plan.rows, plan.cells, complete, plan.options.unit)
    split = "valid"
    if plan.options.test and state.failed:
        reporter.say("test was not read, because not all cells are complete; fix the cause and add --retry")
    elif plan.options.test:
        split = "test"
        set_threads(plan.options.threads or 1)  # as in training
        once = _OncePerLine(reporter)
        for number in range(len(plan.rows)):
            for cell in study.of(number, study.choose(number)):
                _evaluate(cell, plan, once)
    tables = make_tables(study, split, state.failed)
    write_tables(study, tables, plan.output)
    write_study_report(plan.output)
    return tables


class _OncePerLine(WithoutBars):
    """Reporter that passes each message on once: many evaluations say the same."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(reporter)
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Print one status line, without a repetition."""
        if text not in self._said:
            self._said.add(text)
            super().say(text)


def _evaluate(cell: Cell, plan: Plan, reporter: Reporter) -> None:
    """Evaluate a chosen cell on test, unless its predictions on this test split exist."""
    if was_evaluated(cell, plan.data):
        return
    options = EvaluateOptions(
        split="test", features_dir=cell.options.features_dir, audio_root=cell.options.audio_root,
        allow_missing=cell.options.allow_missing, device=plan.options.device, trust_code=plan.options.trust_code,
    )  # fmt: skip
    evaluate(cell.run, options, reporter)


def was_evaluated(cell: Cell, data: Path) -> bool:
    """Tell whether a cell has predictions on the test split of its data, or of its fold."""
    path = predictions_file(cell.run, "test")
    metrics = path.with_name(path.name.replace("predictions", "metrics")).with_suffix(".json") if path else None
    if metrics is None or not metrics.is_file():
        return False
    recorded = json.loads(metrics.read_text("utf-8"))
    if cell.fold is not None:  # training has checked the folds and the manifests; other data have no fold
        return bool(recorded.get("fold") == cell.fold)
    return bool(recorded["manifest_sha256"] == hashlib.sha256((data / "test.jsonl").read_bytes()).hexdigest())
