"""Trains cells of a study: keeps their state, and shows the best one and the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean

from features.device import resolve_device
from features.durations import duration
from features.progress import Reporter
from mervn.run_folder import read_metrics
from mervn.study.cell_worker import Outcome
from mervn.study.cells import Cell
from mervn.study.pooled_scores import read_run
from mervn.study.study_plan import Plan, count_of, jobs_of
from mervn.study.study_run import LOGS_FOLDER, Engine, State, Workplace, local_engine
from mervn.study.study_scores import METRIC

MEASURED_CELLS = 2
"""Number of cells that are timed before the time of all cells is estimated."""
SAVE_INTERVAL_S = 5.0
"""Seconds between two versions of state.json while cells complete; a failure is saved at once."""


def open_engine(plan: Plan, cells: int, reporter: Reporter) -> Engine:
    """Return the engine that trains the cells of a study, of which there are at most so many."""
    options, threads = plan.options, plan.options.threads or 1
    if options.engine == "ray":
        from mervn.study.ray_engine import RayEngine, make_place

        place = make_place(plan.data, plan.output, threads, resolve_device(options.device).type)
        return RayEngine(place, options.ray_address, options.jobs, reporter)
    return local_engine(Workplace(plan.data, min(jobs_of(options) or 1, cells), threads, plan.output / LOGS_FOLDER))


class CellTraining:
    """Trains cells with a live line: cells done, best so far on valid, time left."""

    def __init__(self, plan: Plan, state: State, total: int, done: int, reporter: Reporter) -> None:
        """Show `total` cells, of which `done` are done."""
        self.plan, self.state, self.reporter = plan, state, reporter
        self.left, self.trained = total - done, 0
        self._bar = reporter.progress(total, done, "cells", unit=" cells")
        self._engine: Engine | None = None
        self._cells: dict[str, Cell] = {}
        self._estimated, self._saved = False, time.monotonic()
        self._seconds: list[float] = []  # training times of the cells of this call
        self._best: tuple[float, str] | None = None
        self._warned: set[str] = set()

    def train(self, cells: Sequence[Cell]) -> None:
        """Train cells and note the outcome of each."""
        if not cells:
            return
        self._engine = self._engine or open_engine(self.plan, self.left, self.reporter)
        self._cells.update({cell.name: cell for cell in cells})
        try:
            self._engine.run(cells, self._report)
        finally:
            self.state.save()

    def rank(self, cell: Cell) -> None:
        """Compare a complete cell with the best so far."""
        score = float(read_metrics(cell.run)["valid"][METRIC])
        if self._best is None or score > self._best[0]:
            self._best = score, self._describe(cell)

    def skip(self, count: int) -> None:
        """Count cells as done that need no training."""
        self.left -= count
        self._bar.update(count)

    def close(self) -> None:
        """Stop the processes, and end the live line."""
        try:
            if self._engine is not None:
                self._engine.close()
        finally:
            self._bar.close()

    def _report(self, outcome: Outcome) -> None:
        """Note the outcome of a cell."""
        cell = self._cells[outcome.name]
        for text in outcome.warnings:
            if text not in self._warned:
                self._warned.add(text)
                self.reporter.say(f"warning: {text}")
        if outcome.error is None:
            self.state.complete(cell.name)
            self._seconds.append(read_run(cell.run)[1])
            self.rank(cell)
        else:
            self.state.fail(cell.name, outcome.error)
            self.reporter.say(f"failed: {self._describe(cell)} ({cell.name}): {outcome.error}")
        if outcome.error is not None or time.monotonic() - self._saved > SAVE_INTERVAL_S:
            self.state.save()
            self._saved = time.monotonic()
        self.trained += 1
        self.left -= 1
        self._show()

    def _show(self) -> None:
        jobs = self._engine.jobs if self._engine is not None else 1
        per_cell = fmean(self._seconds) / jobs if self._seconds else 0.0
        best = f"best valid macro-F1 {self._best[0]:.4f} ({self._best[1]})" if self._best else ""
        measured = len(self._seconds)
        left = f"about {duration(per_cell * self.left)} left" if measured >= MEASURED_CELLS and self.left else ""
        self._bar.set_postfix_str(", ".join(text for text in (best, left) if text), refresh=False)
        self._bar.update(1)
        if measured == MEASURED_CELLS and self.left and not self._estimated:
            self._estimated = True
            most = "at most " if self.plan.grid.trials else ""
            self.reporter.say(
                f"estimate from {MEASURED_CELLS} cells: about {duration(per_cell * self.left)} left for "
                f"{most}{count_of(self.left, 'cell')}, {jobs} at a time"
            )

    def _describe(self, cell: Cell) -> str:
        row = self.plan.rows[cell.row]
        fold = "" if cell.fold is None else f" fold={cell.fold}"
        return f"{row}{fold} seed={cell.seed}"
