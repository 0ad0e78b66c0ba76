"""Plan of a study: what is checked before any cell is trained, what it takes, and what exists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

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
from mervn.study.pooled_scores import read_run
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
    output: Path
    data: Path
    options: AblateOptions
    missing: MissingFeatures


def make_plan(path: Path, options: AblateOptions, data: Path) -> Plan:
    """Check everything that can be checked before any work."""
    grid = read_grid(path, options.trust_code)
    place = {name: getattr(options, name) for name in ("features_dir", "audio_root", "device")}
    rows = make_rows(grid, place, data)
    folds = fold_numbers(grid, rows, data)
    output = options.output or Path("studies") / grid.name
    cells = make_cells(grid, rows, folds, output)
    _check_labels(cells, data, options.unit)
    splits: Sequence[SplitName] = SPLITS if options.test or folds != [None] else SPLITS[:2]
    candidates = [candidate for row in rows for candidate in row.candidates]
    missing = find_missing(candidates, data, splits, rows[0].candidates[0].options)
    return Plan(grid, rows, cells, output, data, options, missing)


def _check_labels(cells: Sequence[Cell], data: Path, unit: str) -> None:
    """Read the labels of each fold once for each choice of labels; UsageError if they are unusable.

    Also raises UsageError if no utterance of valid has the key `unit`.
    """
    known: set[str] = set()
    keys = {"speaker_id", "utterance_id"}
    for cell in cells:
        options = cell.options
        key = repr((options.labels, options.label_map, options.drop_label, options.fold))
        if key not in known:
            known.add(key)
            try:
                valid = read_labelled(options, data).utterances["valid"]
            except InputError as error:
                raise UsageError(str(error)) from error  # found before any work
            keys.update(*(utterance.extra for utterance in valid))
    if unit not in keys:
        raise UsageError(f"--unit must be a key of the manifests, found {unit!r}{did_you_mean(unit, keys)}")


def grid_json(grid: Grid) -> dict[str, Any]:
    """Return the grid as a JSON object."""
    values = {"base": grid.base, "rows": grid.rows, "tune": grid.tune, "reference": grid.reference}
    document = {"name": grid.name, "design": grid.design, "seeds": grid.seeds, "folds": grid.folds, **values}
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found


def announce(plan: Plan, reporter: Reporter) -> None:
    """Print the number of rows, candidates and cells."""
    candidates = sum(len(row.candidates) for row in plan.rows)
    tuned = f", {candidates} candidates" if candidates > len(plan.rows) else ""
    folds = len({cell.fold for cell in plan.cells})
    exist = sum((cell.run / METRICS_FILE).is_file() for cell in plan.cells)
    reporter.say(
        f"{plan.grid.name}: {_count(len(plan.rows), 'row')}{tuned}, {_count(len(plan.grid.seeds), 'seed')}, "
        f"{'no folds' if plan.cells[0].fold is None else _count(folds, 'fold')}: {_count(len(plan.cells), 'cell')} in "
        f"{plan.output}, {exist} of them complete; at most {jobs_of(plan.options)} at a time"
    )
    for row in plan.rows:
        mark = " (reference)" if row.is_reference else ""
        reporter.say(f"  {row}{mark}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def jobs_of(options: AblateOptions) -> int:
    """Return the number of processes: the given one, or one per core."""
    return options.jobs or default_jobs(resolve_device(options.device).type != "cpu")


def find_complete(plan: Plan, reporter: Reporter) -> set[str]:
    """Return the names of the cells whose runs are complete and of exactly this configuration.

    Opens all features once, so that an error in them shows before any cell is trained. UsageError if
    a run folder has another configuration, because the data or the features have changed.
    """
    complete: set[str] = set()
    size = 0
    for _, group in groupby(plan.cells, key=lambda cell: cell.features):
        cells = list(group)
        stored = None
        for cell in cells:
            resolved = resolve_head_options(cell.options)
            if stored is None:
                stored = open_stored_data(resolved.with_options(verify_inputs=False), plan.data, SILENT)
            config = configuration(resolved, stored)
            if (cell.run / CONFIG_FILE).is_file():
                require_same(cell.run, "run", read_config(cell.run).configuration, config.configuration)
                if (cell.run / METRICS_FILE).is_file():
                    read_metrics(cell.run)
                    complete.add(cell.name)
                    continue
            size += BYTES_PER_RUN + BYTES_PER_PREDICTION * len(stored.splits["valid"])
            size += _weight_bytes(resolved, stored)
    _announce_cost(plan, complete, size, reporter)
    return complete


def _announce_cost(plan: Plan, complete: set[str], size: int, reporter: Reporter) -> None:
    """Print what training the other cells takes; InputError if the disk is too small.

    size: bytes that these cells will write.
    """
    folder = plan.output
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder.resolve()).free
    count = len(plan.cells) - len(complete)
    if count:
        seconds = [read_run(cell.run)[1] for cell in plan.cells if cell.name in complete]
        time = f", about {duration(count * fmean(seconds) / jobs_of(plan.options))}" if seconds else ""
        reporter.say(f"{count} cells to train{time}: {size / 1e6:.1f} MB to write, {free / 1e9:.1f} GB free")
    if size + FREE_DISK_MARGIN > free:
        raise InputError(
            f"the runs need {size / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; give another --output"
        )


def _weight_bytes(resolved: Resolved[TrainHeadOptions], stored: StoredData) -> int:
    """Return the size of a head's weights; 0 if it cannot be built, which its cell then reports."""
    shapes = {name: stream.shape for name, stream in stored.streams.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            head = build_head(resolved.options, shapes, len(stored.labelled.labels))
    except Exception:
        return 0
    return 4 * sum(parameter.numel() for parameter in head.parameters())
