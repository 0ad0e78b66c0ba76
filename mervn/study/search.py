"""Search of the tuned values of each row by trials, on valid only.

Optuna's sampler TPE (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization") suggests
the values. A row is searched on its own. The trials are a pure function of the grid and of the
scores of the cells: the seed is fixed, values are suggested in batches of a fixed size, and scores
are told in the order of the trials. So the number of processes, an interruption or a larger number
of trials changes none of the earlier trials.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

from features.environment import package_version
from features.errors import UsageError
from features.progress import Reporter
from mervn.run_folder import CONFIG_FILE
from mervn.study.cell_training import CellTraining
from mervn.study.cells import Candidate, Cell, Row, describe, make_candidate, make_cells
from mervn.study.grid import Grid
from mervn.study.study_plan import Plan, announce_cost, find_complete
from mervn.study.study_run import State
from mervn.study.study_scores import METRIC, Study

BATCH = 5
"""Trials of a row that are suggested before their scores are known; it does not follow --jobs."""
RANDOM_TRIALS = 10
"""Trials of a row with random values, before TPE suggests from the scores."""
SEED = 0
SIGNIFICANT_DIGITS = 6
"""Of a value of a range, so that the value in the table is the one that was trained."""


def import_optuna() -> Any:
    """Return the module; UsageError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError('--trials needs Optuna: pip install "mervn[search]"') from error
    return optuna


def search(plan: Plan, state: State, reporter: Reporter) -> tuple[Plan, int]:
    """Train the trials of each row; return the plan with their cells, and the number of cells trained.

    The score of a trial is the one by which the best candidate is chosen: the mean over seeds of
    macro-F1 on valid, with the predictions of all folds pooled.
    """
    grid, optuna = plan.grid, import_optuna()
    announce_cost(plan, find_complete(plan.cells, plan.data), reporter)
    rows = [RowSearch(plan, row, optuna, reporter) for row in plan.rows if not row.is_baseline]
    baselines = [row for row in plan.rows if row.is_baseline]  # after the rows of the grid, and nothing to search
    expected = sum(plan.rows[cell.row].is_baseline for cell in plan.cells)
    total = expected + sum(row.trials * row.cells_per_trial for row in rows)
    cells: list[Cell] = []
    with closing(CellTraining(plan, state, total, 0, reporter)) as training:
        while any(row.left for row in rows):
            expected += sum([row.ask(BATCH) * row.cells_per_trial for row in rows])
            searched = [*(row.searched() for row in rows), *baselines]
            cells = make_cells(grid, searched, plan.folds, plan.output)
            training.skip(expected - _train(cells, plan, state, training))
            expected = 0
            study = Study(searched, cells, state.completed(), plan.options.unit)
            for number, row in enumerate(rows):
                row.tell(study, number)
    return replace(plan, rows=[*(row.searched() for row in rows), *baselines], cells=cells), training.trained


def _train(cells: Sequence[Cell], plan: Plan, state: State, training: CellTraining) -> int:
    """Train the cells that are new and have no complete run; return their number."""
    new = {cell.name: cell for cell in cells if cell.name not in state.cells}
    state.add(new.values())
    begun = [cell for cell in new.values() if (cell.run / CONFIG_FILE).is_file()]
    for name in find_complete(begun, plan.data).complete:
        state.complete(name)
        training.rank(new[name])
    waiting = [cell for cell in new.values() if state.cells[cell.name] == "waiting"]
    training.train(waiting)
    return len(waiting)


class RowSearch:
    """Search of one row: its trials, and the candidates that they are."""

    def __init__(self, plan: Plan, row: Row, optuna: Any, reporter: Reporter) -> None:
        self.grid, self.plan, self.row, self.reporter = plan.grid, plan, row, reporter
        self.candidates: list[Candidate] = []
        """The different candidates, in the order of the trials."""
        self._optuna = optuna
        self._first = {name: values[0] for name, values in self.grid.tune_values.items()}
        self._read = [name for name in self._first if not _is_unread(row, name)]
        self._all = _all_values(self.grid, self._read)
        most = self.grid.trials or 1
        self.trials = most if self._all is None else len(self._all)
        """Number of trials; with lists only, every combination is tried if there are few enough."""
        linear = all(candidate.resolved.fusion.linear for candidate in row.candidates)
        self._seeds = 1 if linear else len(self.grid.seeds)
        self.cells_per_trial = self._seeds * len(plan.folds)
        """Number of cells of a trial; a linear head has no seed."""
        self._asked: list[tuple[Any, int | None]] = []  # trial of optuna, number of the candidate
        self._told = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # before version 5 some arguments are called experimental
            sampler = optuna.samplers.TPESampler(
                seed=SEED, n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(sampler=sampler, direction="maximize")
        """The trials of optuna, in the order in which they were asked for."""
        self._distributions = {name: _distribution(self.grid, name, optuna) for name in self._read}

    @property
    def left(self) -> int:
        """Number of trials that were not asked for yet."""
        return self.trials - len(self._asked)

    def ask(self, count: int) -> int:
        """Add the next trials, at most `count`; return their number."""
        count = min(count, self.left)
        for _ in range(count):
            trial, tuned = self._suggest()
            self._asked.append((trial, self._add(tuned)))
        return count

    def searched(self) -> Row:
        """Return the row with its trials so far; UsageError if none of them can be trained."""
        if not self.candidates:
            raise UsageError(
                f"{self.grid.path}: [tune] must have values that can be trained, found none for {self.row}"
            )
        return replace(self.row, candidates=list(self.candidates))

    def _suggest(self) -> tuple[Any, dict[str, Any]]:
        """Return the next trial and its tuned values."""
        if self._all is not None:
            return None, {**self._first, **self._all[len(self._asked)]}
        trial = self.study.ask(fixed_distributions=self._distributions)
        return trial, {**self._first, **{name: _value(self.grid, name, trial.params[name]) for name in self._read}}

    def _add(self, tuned: Mapping[str, Any]) -> int | None:
        """Return the number of the candidate with these values; None if they exclude each other."""
        try:
            candidate = make_candidate(self.grid, self.plan.place, self.row.axes, tuned, self.plan.data)
        except UsageError as error:
            reason = "; ".join(str(error).splitlines())
            self.reporter.say(f"no head with {describe(tuned)} ({self.row}): {reason}")
            return None
        for number, known in enumerate(self.candidates):
            if known.identity == candidate.identity:
                return number
        self.candidates.append(candidate)
        return len(self.candidates) - 1

    def tell(self, study: Study, number: int) -> None:
        """Tell the scores of the trials to the sampler, in order; `number` is that of the row."""
        for trial, candidate in self._asked[self._told :]:
            if trial is not None:
                score = None if candidate is None else _score(study, number, candidate, self._seeds)
                failed = self._optuna.trial.TrialState.FAIL
                self.study.tell(trial, score, state=failed if score is None else None)
        self._told = len(self._asked)


def _score(study: Study, row: int, candidate: int, seeds: int) -> float | None:
    """Return the mean score of a candidate on valid; None if a cell failed."""
    pooled = study.pooled(row, candidate, "valid")
    scores = pooled.scores(METRIC) if pooled is not None else []
    return fmean(scores) if len(scores) == seeds else None


def _is_unread(row: Row, name: str) -> bool:
    return all(name in candidate.resolved.unread for candidate in row.candidates)


def _all_values(grid: Grid, names: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return every combination of these axes; None if one is a range, or there are more than trials."""
    if any(name in grid.ranges for name in names):
        return None
    lists = [grid.tune[name] for name in names]
    if math.prod(map(len, lists)) > (grid.trials or 1):
        return None
    return [dict(zip(names, values, strict=True)) for values in product(*lists)]


def _distribution(grid: Grid, name: str, optuna: Any) -> Any:
    """Return the values of an axis for optuna; those of a list by their index."""
    if name in grid.tune:
        return optuna.distributions.CategoricalDistribution(tuple(range(len(grid.tune[name]))))
    each = grid.ranges[name]
    high = each.high
    if each.step is not None:  # optuna wants high to be a step; 1e-9: 0.3 - 0.1 is not quite 2 * 0.1
        high = each.low + math.floor((each.high - each.low) / each.step + 1e-9) * each.step
    if each.whole:
        return optuna.distributions.IntDistribution(int(each.low), int(high), each.log, int(each.step or 1))
    return optuna.distributions.FloatDistribution(each.low, high, each.log, each.step)


def _value(grid: Grid, name: str, suggested: Any) -> Any:
    """Return the value of an option for a value of optuna."""
    if name in grid.tune:
        return grid.tune[name][suggested]
    each = grid.ranges[name]
    if each.whole:
        return int(suggested)
    return min(max(float(f"{suggested:.{SIGNIFICANT_DIGITS}g}"), each.low), each.high)


def settings_json() -> dict[str, Any]:
    """Return what the suggestions depend on, besides the grid and the scores."""
    return {"optuna": package_version("optuna"), "seed": SEED, "batch": BATCH, "random_trials": RANDOM_TRIALS}
