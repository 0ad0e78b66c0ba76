"""`ablate`: train every cell of a grid, choose on valid, compare the rows in tables."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from features.atomic_files import read_object
from features.cpu_threads import set_threads
from features.progress import SILENT, OncePerLine, Reporter, WithoutBars
from mervn.config import AblateOptions, EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.open_run import open_run
from mervn.evaluation.overlap import shared_overlaps
from mervn.evaluation.saved_predictions import predictions_path
from mervn.report.study_page import write_study_report
from mervn.result_folder import locked
from mervn.run_folder import METRICS_FILE, MODEL_FILE
from mervn.study.cell_training import CellTraining
from mervn.study.cells import Cell
from mervn.study.missing_features import extract_missing
from mervn.study.recipe_table import RecipeTable, compare_with_paper, open_recipe
from mervn.study.search import import_optuna, search, settings_json
from mervn.study.study_plan import Plan, announce, announce_cost, find_complete, grid_json, make_plan, most_cells
from mervn.study.study_run import STATE_FILE, State
from mervn.study.study_scores import Study
from mervn.study.table_files import write_tables
from mervn.study.tables import Tables, make_tables


@dataclass(frozen=True)
class StudyResult:
    """The folder of a study, and its tables; None for a dry run."""

    output: Path
    cells: int
    waiting: int
    """Number of cells that this call trained, or would train."""
    tables: Tables | None = None
    recipe: RecipeTable | None = None
    """The published scores beside those of the study; None without [paper], and if test was not read."""


def ablate(path: Path, options: AblateOptions, data: Path, reporter: Reporter = SILENT) -> StudyResult:
    """Train the cells of a grid that are not complete yet, and write the tables of the study.

    With `options.trials` the tuned values of each row are searched. Test is read only with
    `options.test`, after all cells are complete, and only for the candidate of each row that was
    chosen on valid. Raises UsageError for a grid that cannot be meant, InputError for data that
    cannot be used. A cell that fails is part of the result.
    """
    if options.trials is not None:
        import_optuna()
    plan = make_plan(path, options, data)
    announce(plan, reporter)
    recipe = open_recipe(plan, reporter)
    if options.dry_run:
        return _dry_run(plan, reporter)
    with locked(plan.output, STATE_FILE, "study"):
        state = _open_state(plan, reporter)
        settings = replace(plan.missing.settings, engine=options.engine, ray_address=options.ray_address)
        extract_missing(replace(plan.missing, settings=settings), reporter, plan_only=False)
        plan, trained = (_train if options.trials is None else search)(plan, state, reporter)
        state.forget_others()
        state.save()
        tables = _finish(plan, state, reporter)
        compared = compare_with_paper(recipe, tables, reporter) if recipe else None
        return StudyResult(plan.output, len(plan.cells), trained, tables, compared)


def _open_state(plan: Plan, reporter: Reporter) -> State:
    """Open state.json; warn if Optuna may suggest other trials than in an earlier command."""
    grid = grid_json(plan.grid)
    state = State.open(plan.output, grid, retry=plan.options.retry)
    if plan.grid.trials is None:
        state.add(plan.cells)
        state.forget_others()
    else:
        grid["search"] = settings_json()
        earlier = state.earlier_grid.get("search", grid["search"])
        if earlier != grid["search"]:
            reporter.say(f"warning: earlier trials were suggested by {earlier}, which can differ from {grid['search']}")
    state.save()
    return state


def _dry_run(plan: Plan, reporter: Reporter) -> StudyResult:
    """Print what the study would take; writes nothing."""
    extract_missing(plan.missing, reporter, plan_only=True)
    if not plan.missing.selectors:
        announce_cost(plan, find_complete(plan.cells, plan.data), reporter)
    if plan.grid.trials is None:
        waiting = sum(not (cell.run / METRICS_FILE).is_file() for cell in plan.cells)
        reporter.say(f"{waiting} cells would be trained; nothing was written")
        return StudyResult(plan.output, len(plan.cells), waiting)
    cells = most_cells(plan)
    reporter.say(f"at most {cells} cells would be trained; nothing was written")
    return StudyResult(plan.output, cells, cells)


def _train(plan: Plan, state: State, reporter: Reporter) -> tuple[Plan, int]:
    """Train the cells that are not complete; return the plan, and the number of cells trained."""
    found = find_complete(plan.cells, plan.data)
    for name in found.complete:
        state.complete(name)
    sizes = {name: size for name, size in found.sizes.items() if state.cells[name] == "waiting"}
    announce_cost(plan, replace(found, sizes=sizes), reporter)
    # by name, because two rows can share a cell
    waiting = {cell.name: cell for cell in plan.cells if state.cells[cell.name] == "waiting"}
    if not waiting:
        return plan, 0
    total = len(state.cells)
    with closing(CellTraining(plan, state, total, total - len(waiting), reporter)) as training:
        for cell in plan.cells:
            if cell.name in found.complete:
                training.rank(cell)
        training.train(list(waiting.values()))
        return plan, training.trained


def _finish(plan: Plan, state: State, reporter: Reporter) -> Tables:
    """Evaluate the chosen cells on test, if asked for, and write the tables."""
    study = Study(plan.rows, plan.cells, state.completed(), plan.options.unit, plan.majority)
    split = "valid"
    if plan.options.test and state.failed:
        reporter.say("test was not read, because not all cells are complete; fix the cause and add --retry")
    elif plan.options.test:
        split = "test"
        set_threads(plan.options.threads or 1)  # as in training
        evaluations = _Evaluations(plan, OncePerLine(WithoutBars(reporter)))
        with shared_overlaps():
            for number in range(len(plan.rows)):
                for cell in study.of(number, study.choose(number)):
                    evaluations.evaluate(cell)
    tables = make_tables(study, split, state.failed)
    write_tables(study, tables, plan.output)
    write_study_report(plan.output)
    return tables


class _Evaluations:
    """Evaluates chosen cells on test, except those whose predictions are of the same weights and inputs."""

    def __init__(self, plan: Plan, reporter: Reporter) -> None:
        self._plan, self._reporter = plan, reporter
        self._inputs: dict[str, str] = {}
        """Hash of the inputs of test, by `Cell.features`."""

    def evaluate(self, cell: Cell) -> None:
        """Evaluate a cell if its predictions are missing, or of other weights or inputs."""
        if not self._is_scored(cell):
            evaluate(cell.run, self._options(cell), self._reporter)

    def _is_scored(self, cell: Cell) -> bool:
        """Tell whether a cell has scores of its weights and of the inputs as they are, compared with its training."""
        path, model = cell.run / "metrics-test.json", cell.run / MODEL_FILE
        if not (path.is_file() and predictions_path(cell.run, "test").is_file() and model.is_file()):
            return False
        recorded = read_object(path, "the metrics of a run")
        expected = {
            "inputs_sha256": self._present(cell),
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        }
        return "overlap" in recorded and expected.items() <= recorded.items()

    def _present(self, cell: Cell) -> str:
        """Return the hash of the inputs of test as they are now; cells that read the same share it."""
        if cell.features not in self._inputs:
            opened = open_run(cell.run, self._options(cell), self._reporter)
            self._inputs[cell.features] = opened.look.inputs_sha256
        return self._inputs[cell.features]

    def _options(self, cell: Cell) -> EvaluateOptions:
        options = self._plan.options
        return EvaluateOptions(
            split="test", features_dir=cell.options.features_dir, audio_root=cell.options.audio_root,
            allow_missing=cell.options.allow_missing, device=options.device, trust_code=options.trust_code,
        )  # fmt: skip
