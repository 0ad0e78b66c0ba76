"""Plan of a study: what is checked before any cell is trained, what it takes, and what exists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from features.command_lines import features_folder
from features.config import SPLITS, SplitName
from features.device import resolve_device
from features.durations import duration
from features.errors import InputError, UsageError
from features.progress import SILENT, Reporter
from features.suggestions import did_you_mean
from mervn.config import AblateOptions, TrainHeadOptions
from mervn.model.head import build_head
from mervn.result_folder import require_same
from mervn.run_folder import CONFIG_FILE, METRICS_FILE, read_config, read_metrics
from mervn.study.cells import Cell, Row, fold_numbers, make_cells, make_rows
from mervn.study.grid import Grid, read_grid
from mervn.study.missing_features import MissingFeatures, find_missing
from mervn.study.open_layers import name_layers
from mervn.study.pooled_scores import read_run
from mervn.study.study_baselines import Answers, add_linear, label_key, most_frequent
from mervn.study.study_run import default_jobs
from mervn.training.setup import (
    Resolved,
    StoredData,
    configuration,
    open_stored_data,
    read_labelled,
    resolve_head_options,
)

BYTES_PER_PREDICTION, BYTES_PER_RUN = 300, 40_000
"""Rough sizes on disk of one line of predictions, and of the small files of a run."""
FREE_DISK_MARGIN = 64 << 20
"""Bytes of the disk that the runs must leave free."""


@dataclass(frozen=True)
class Plan:
    """A checked study."""

    grid: Grid
    rows: Sequence[Row]
    cells: Sequence[Cell]
    """With trials, the cells that are checked before the search."""
    folds: Sequence[int | None]
    output: Path
    data: Path
    options: AblateOptions
    missing: MissingFeatures
    majority: Answers
    """The most frequent label of train; empty without baselines."""

    @property
    def place(self) -> dict[str, Any]:
        """The options of the study that every cell has."""
        return _place(self.options)


@dataclass(frozen=True)
class Found:
    """Cells that were looked up on disk."""

    complete: set[str]
    """Names of the complete cells."""
    sizes: dict[str, int]
    """Bytes that each of the other cells will write, by name."""


def _place(options: AblateOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("features_dir", "audio_root", "device")}


def make_plan(path: Path, options: AblateOptions, data: Path) -> Plan:
    """Check everything that can be checked before any work."""
    grid = read_grid(path, options.trust_code, options.trials)
    grid = name_layers(grid, features_folder(options.features_dir, data))
    place = _place(options)
    rows = make_rows(grid, place, data)
    if grid.baselines:
        rows = add_linear(rows)
    folds = fold_numbers(grid, rows, data)
    output = options.output or Path("studies") / grid.name
    cells = make_cells(grid, rows, folds, output)
    majority = _check_labels(cells, data, options.unit)
    splits: Sequence[SplitName] = SPLITS if options.test or folds != [None] else SPLITS[:2]
    candidates = [candidate for row in rows for candidate in row.candidates]
    missing = find_missing(candidates, data, splits, rows[0].candidates[0].options)
    return Plan(grid, rows, cells, folds, output, data, options, missing, majority if grid.baselines else {})


def _check_labels(cells: Sequence[Cell], data: Path, unit: str) -> dict[tuple[str, int | None], str]:
    """Return the most frequent label of train for each choice of labels and each fold.

    Each is read once. UsageError if the labels are unusable, or if no utterance of valid has the
    key `unit`.
    """
    majority: dict[tuple[str, int | None], str] = {}
    keys = {"speaker_id", "utterance_id"}
    for cell in cells:
        key = label_key(cell.options), cell.fold
        if key not in majority:
            try:
                utterances = read_labelled(cell.options, data).utterances
            except InputError as error:
                raise UsageError(str(error)) from error  # found before any work
            majority[key] = most_frequent(str(utterance.emotion) for utterance in utterances["train"])
            keys.update(*(utterance.extra for utterance in utterances["valid"]))
    if unit not in keys:
        raise UsageError(f"--unit must be a key of the manifests, found {unit!r}{did_you_mean(unit, keys)}")
    return majority


def grid_json(grid: Grid) -> dict[str, Any]:
    """Return the grid as a JSON object."""
    values = {"base": grid.base, "rows": grid.rows, "tune": grid.tune, "reference": grid.reference}
    document: dict[str, Any] = {"name": grid.name, "design": grid.design, "seeds": grid.seeds, "folds": grid.folds}
    document |= {"baselines": grid.baselines, **values}
    if grid.trials is not None:
        document |= {"trials": grid.trials, "ranges": {name: asdict(each) for name, each in grid.ranges.items()}}
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found


def announce(plan: Plan, reporter: Reporter) -> None:
    """Print the number of rows, baselines, candidates and cells."""
    trials, jobs = plan.grid.trials, jobs_of(plan.options)
    rows = [row for row in plan.rows if not row.is_baseline]
    candidates = sum(len(row.candidates) for row in rows)
    tuned = f", {candidates} candidates" if candidates > len(rows) else ""
    cells = count_of(len(plan.cells), "cell")
    if trials is not None:
        tuned, cells = f", at most {count_of(trials, 'trial')} each", f"at most {count_of(most_cells(plan), 'cell')}"
    if added := len(plan.rows) - len(rows):
        tuned += f", {count_of(added, 'linear baseline')}"
    exist = sum((cell.run / METRICS_FILE).is_file() for cell in plan.cells)
    complete = f", {exist} of them complete" if trials is None else ""
    reporter.say(
        f"{plan.grid.name}: {count_of(len(rows), 'row')}{tuned}, {count_of(len(plan.grid.seeds), 'seed')}, "
        f"{'no folds' if plan.folds == [None] else count_of(len(plan.folds), 'fold')}: {cells} in "
        f"{plan.output}{complete}; at most {jobs or 'what the Ray cluster can do'} at a time"
    )
    for row in plan.rows:
        mark = " (reference)" if row.is_reference else " (baseline)" if row.is_baseline else ""
        reporter.say(f"  {row}{mark}")


def most_cells(plan: Plan) -> int:
    """Return the number of cells; the largest possible one with trials."""
    if plan.grid.trials is None:
        return len(plan.cells)
    baselines = sum(plan.rows[cell.row].is_baseline for cell in plan.cells)
    rows = sum(not row.is_baseline for row in plan.rows)
    return baselines + rows * plan.grid.trials * len(plan.grid.seeds) * len(plan.folds)


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, such as `3 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def jobs_of(options: AblateOptions) -> int | None:
    """Return the number of cells at once; None if only the Ray cluster knows it."""
    if options.engine == "ray":
        return options.jobs
    return options.jobs or default_jobs(resolve_device(options.device).type != "cpu")


def find_complete(cells: Iterable[Cell], data: Path) -> Found:
    """Return the cells whose runs are complete and of exactly this configuration.

    Opens the features of all cells once, so that an error in them shows before any cell is trained.
    UsageError if a run folder has another configuration, because the data or the features have
    changed. Neighbours should read the same features.
    """
    found = Found(set(), {})
    for _, group in groupby(cells, key=lambda cell: cell.features):
        stored = None
        for cell in group:
            resolved = resolve_head_options(cell.options)
            if stored is None:
                stored = open_stored_data(resolved.with_options(verify_inputs=False), data, SILENT)
            config = configuration(resolved, stored)
            if (cell.run / CONFIG_FILE).is_file():
                require_same(cell.run, "run", read_config(cell.run).configuration, config.configuration)
                if (cell.run / METRICS_FILE).is_file():
                    read_metrics(cell.run)
                    found.complete.add(cell.name)
                    continue
            predictions = BYTES_PER_PREDICTION * len(stored.splits["valid"])
            found.sizes[cell.name] = BYTES_PER_RUN + predictions + _weight_bytes(resolved, stored)
    return found


def announce_cost(plan: Plan, found: Found, reporter: Reporter) -> None:
    """Print what training the other cells takes; InputError if the disk is too small."""
    folder = plan.output
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder.resolve()).free
    count, size = len(found.sizes), float(sum(found.sizes.values()))
    if plan.grid.trials is not None:  # the cells are not known yet
        size = most_cells(plan) * size / max(count, 1)
        count = most_cells(plan)
    if count:
        seconds = [read_run(cell.run)[1] for cell in plan.cells if cell.name in found.complete]
        jobs = jobs_of(plan.options)
        time = f", about {duration(count * fmean(seconds) / jobs)}" if seconds and jobs else ""
        most = "at most " if plan.grid.trials else ""
        reporter.say(f"{most}{count} cells to train{time}: {size / 1e6:.1f} MB to write, {free / 1e9:.1f} GB free")
    if size + FREE_DISK_MARGIN > free:
        raise InputError(
            f"the runs need {size / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; give another --output"
        )


def _weight_bytes(resolved: Resolved[TrainHeadOptions], stored: StoredData) -> int:
    """Return the size of a head's weights; 0 if it cannot be built, which its cell then reports."""
    shapes = {name: stream.shape for name, stream in stored.streams.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            head = build_head(resolved.options, shapes, len(stored.labelled.labels), resolved.modules)
    except Exception:
        return 0
    return 4 * sum(parameter.numel() for parameter in head.parameters())
