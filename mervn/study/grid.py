"""GRID.toml: the axes of an ablation, read and checked before any work.

A grid can name options of `train-head` only. None of them reads test, so a grid cannot select on
test: the values of [tune] are compared on valid, and [rows] are shown, not selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_origin

from features.encoders.selector import names_code
from features.errors import UsageError
from features.suggestions import did_you_mean
from mervn.config import TrainHeadOptions
from mervn.study.toml_values import (
    Range,
    are_different_numbers,
    are_lists,
    is_finite,
    is_number,
    parse_toml,
    read_range,
    same,
)

DESIGNS = ("grid", "one-at-a-time")
TABLES = ("base", "rows", "tune")
KEYS = ("design", "seeds", "folds", "reference", "baselines", *TABLES, "paper")
DEFAULT_SEEDS = 3
MAX_CELLS = 100_000
"""A grid with more cells is refused: it cannot be meant."""
OF_THE_STUDY: dict[str, str] = {
    **dict.fromkeys(("seed", "num_seeds"), "give seeds = N or a list at the top of the file"),
    **dict.fromkeys(("fold",), 'give folds = "all" or a list at the top of the file'),
    **dict.fromkeys(("data", "features_dir", "audio_root", "device", "threads", "output"), "pass it to mervn ablate"),
    "force": "remove the folder of the study to train all cells again",
    "report": "the study has a report of its own; mervn report RUN writes that of a cell",
    "tensorboard": "cells.csv and the runs hold the scores",
    **dict.fromkeys(("split", "splits", "test"), "pass --test: test is read once, after the selection on valid"),
}
"""Keys that a grid must not set for its cells, each with the advice that the message gives."""


@dataclass(frozen=True)
class Grid:
    """A checked GRID.toml. Names of options are fields of `TrainHeadOptions`."""

    path: Path
    base: Mapping[str, Any]
    """Options of every cell."""
    rows: Mapping[str, Sequence[Any]]
    """The axes of the table."""
    tune: Mapping[str, Sequence[Any]]
    """The axes of which the best values are chosen for each row, on valid."""
    design: str
    """grid: every combination; one-at-a-time: the reference, and each other value of each axis."""
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | None
    """Numbers of folds; empty for all; None: the splits of the manifests."""
    reference: Mapping[str, Any]
    """The value of each axis of the row to which differences are taken."""
    ranges: Mapping[str, Range]
    """The axes of [tune] that are ranges; they need trials."""
    trials: int | None
    """Number of tuned values to try for each row; None for every combination."""
    baselines: bool
    """Whether the tables also have the majority and a linear head on the features of each row."""

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.path.stem

    def combinations(self) -> list[dict[str, Any]]:
        """Return the values of each row of the table, by axis, in the order of the file."""
        if self.design == "grid":
            return list(_products(self.rows))
        found = [dict(self.reference)]
        for axis, values in self.rows.items():
            for value in values:
                if not same(value, self.reference[axis]):
                    found.append({**self.reference, axis: value})
        return found

    @property
    def num_cells(self) -> int:
        """The number of cells per fold, at most."""
        sizes = [len(values) for values in self.rows.values()]
        rows = math.prod(sizes) if self.design == "grid" else 1 + sum(sizes) - len(sizes)
        tuned = self.trials or math.prod(len(values) for values in self.tune.values())
        return rows * tuned * len(self.seeds)

    @property
    def tune_values(self) -> dict[str, Sequence[Any]]:
        """The values of each axis of [tune]; the two ends of a range."""
        return {**self.tune, **{name: (each.low, each.high) for name, each in self.ranges.items()}}

    def tuned(self) -> list[dict[str, Any]]:
        """Return every combination of the tuned values; one empty one without [tune].

        With trials, which are not known yet: each value once, and the first values of all other axes.
        """
        if self.trials is None:
            return list(_products(self.tune))
        first = {name: values[0] for name, values in self.tune_values.items()}
        others = [{**first, name: value} for name, values in self.tune_values.items() for value in values[1:]]
        return [first, *others]


def _products(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def read_grid(path: Path, trust_code: bool = False, trials: int | None = None) -> Grid:
    """Read and check a GRID.toml; UsageError lists all of its faults.

    A grid that names code of the user needs `trust_code`: files can come from other people. With
    `trials` the axes of [tune] are searched and can be ranges.
    """
    document = parse_toml(path)
    reader = _Reader(path, document, trials)
    grid = reader.read()
    if reader.faults:
        raise UsageError("\n".join(f"{path}: {fault}" for fault in reader.faults))
    _refuse_code(grid, trust_code)
    return grid


def _refuse_code(grid: Grid, trust_code: bool) -> None:
    """Raise UsageError if the grid names code, unless the user trusts it."""
    values = list(grid.base.values())
    for axis in (*grid.rows.values(), *grid.tune.values()):
        values += axis
    for value in values:
        if isinstance(value, str) and names_code(value) and not trust_code:
            raise UsageError(f"{grid.path} names the code {value}; review it, then pass --trust-code")


class _Reader:
    """Reads the parts of a document and collects their faults."""

    def __init__(self, path: Path, document: Mapping[str, Any], trials: int | None) -> None:
        self.path, self.document, self.trials = path, document, trials
        self.faults: list[str] = []

    def read(self) -> Grid:
        """Return the grid; it is usable only if there are no faults."""
        fields = TrainHeadOptions.model_fields
        for key in self.document:
            if key not in KEYS:
                place = f"; put it under [base] or [rows] ({key} = [...])" if _field(key) in fields else ""
                self.faults.append(f"no key is called {key!r}{place or did_you_mean(key, KEYS) or _advice(key)}")
        tables = {name: self._table(name) for name in TABLES}
        ranges = self._ranges(tables["tune"])
        lists = {field: values for field, values in tables["tune"].items() if not isinstance(values, dict)}
        rows, tune = self._axes("rows", tables["rows"]), self._axes("tune", lists)
        if not rows and not self.faults:
            self.faults.append("[rows] must have at least one axis, such as fusion = ['late', 'xattn']")
        self._refuse_twice(tables)
        design = self.document.get("design", "grid")
        if design not in DESIGNS:
            self.faults.append(f"design must be {' or '.join(DESIGNS)}, found {design!r}")
        reference = self._reference(rows)
        baselines = self.document.get("baselines", True)
        if not isinstance(baselines, bool):
            self.faults.append(f"baselines must be true or false, found {baselines!r}")
        seeds, folds = self._seeds(), self._folds()
        grid = Grid(
            self.path, tables["base"], rows, tune, str(design), seeds, folds, reference, ranges, self.trials,
            bool(baselines),
        )  # fmt: skip
        if not self.faults and grid.num_cells > MAX_CELLS:
            self.faults.append(f"the grid must have at most {MAX_CELLS} cells per fold, found {grid.num_cells}")
        return grid

    def _table(self, name: str) -> dict[str, Any]:
        """Return a table with the names of fields as its keys."""
        table = self.document.get(name, {})
        if not isinstance(table, dict):
            self.faults.append(f"{name} must be a table [{name}], found {table!r}")
            return {}
        found: dict[str, Any] = {}
        for key, value in table.items():
            field = _field(key)
            if field in OF_THE_STUDY:
                self.faults.append(f"[{name}] must not set {key}: {OF_THE_STUDY[field]}")
            elif field not in TrainHeadOptions.model_fields:
                near = did_you_mean(key.replace("_", "-"), map(key_of, TrainHeadOptions.model_fields))
                self.faults.append(f"[{name}]: train-head has no option {key!r}{near}")
            elif not is_finite(value):
                self.faults.append(f"[{name}] {key} must have finite numbers, found {value!r}")
            elif field in found:
                self.faults.append(f"[{name}]: {key_of(field)} is given twice")
            else:
                found[field] = value
        return found

    def _axes(self, name: str, table: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
        """Return the axes of a table, each a list of different values."""
        axes: dict[str, Sequence[Any]] = {}
        for field, values in table.items():
            axis = f"[{name}] {key_of(field)}"
            takes_several = get_origin(TrainHeadOptions.model_fields[field].annotation) is tuple  # such as mlp
            if not isinstance(values, list) or (takes_several and not are_lists(values)):
                inner = "lists" if takes_several else "values"
                self.faults.append(f"{axis} must be a list of {inner}, found {values!r}")
            elif not values:
                self.faults.append(f"{axis} must have at least one value, found an empty list")
            else:
                axes[field] = values
                for i, value in enumerate(values):
                    if any(same(value, earlier) for earlier in values[:i]):
                        self.faults.append(f"{axis} has the value {value!r} twice")
        return axes

    def _ranges(self, table: Mapping[str, Any]) -> dict[str, Range]:
        """Return the axes of [tune] that are ranges of numbers."""
        if self.trials is not None and not table:
            self.faults.append("--trials searches the axes under [tune], but the grid has none")
        ranges: dict[str, Range] = {}
        for field, value in table.items():
            if isinstance(value, dict):
                try:
                    ranges[field] = read_range(TrainHeadOptions.model_fields[field].annotation, value)
                except ValueError as error:
                    self.faults.append(f"[tune] {key_of(field)} {error}")
                if self.trials is None:
                    self.faults.append(f"[tune] {key_of(field)} is a range: pass --trials N, or give a list of values")
        return ranges

    def _refuse_twice(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        for first, second in (("base", "rows"), ("base", "tune"), ("rows", "tune")):
            for field in tables[first]:
                if field in tables[second]:
                    self.faults.append(f"{key_of(field)} must be in one table, found it in [{first}] and [{second}]")

    def _reference(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return the reference; by default the first value of each axis."""
        given = self.document.get("reference")
        if given is None:
            return {axis: values[0] for axis, values in rows.items()}
        if not isinstance(given, dict):
            self.faults.append(f"reference must give a value for each axis of [rows], found {given!r}")
            return {}
        reference = {_field(key): value for key, value in given.items()}
        for field in reference.keys() - rows.keys():
            known = ", ".join(map(key_of, rows))
            self.faults.append(f"reference: {key_of(field)} is no axis of [rows]; the axes are {known}")
        for field, values in rows.items():
            if field not in reference:
                self.faults.append(f"reference must give a value for each axis of [rows], {key_of(field)} is missing")
            elif not any(same(reference[field], value) for value in values):
                shown = ", ".join(map(repr, values))
                near = did_you_mean(str(reference[field]), map(str, values))
                self.faults.append(
                    f"reference must be a row: {key_of(field)} must be one of {shown}, found {reference[field]!r}{near}"
                )
        return {axis: reference.get(axis) for axis in rows}

    def _seeds(self) -> tuple[int, ...]:
        """Return the seeds: 0 to N - 1 for a number N."""
        seeds = self.document.get("seeds", DEFAULT_SEEDS)
        if is_number(seeds) and 1 <= seeds <= MAX_CELLS:
            return tuple(range(seeds))
        if are_different_numbers(seeds, least=0):
            return tuple(seeds)
        self.faults.append(f"seeds must be a number of 1 or more, or a list of different seeds, found {seeds!r}")
        return ()

    def _folds(self) -> tuple[int, ...] | None:
        """Return the numbers of the folds; empty for all."""
        folds = self.document.get("folds")
        if folds is None or folds == "all":
            return None if folds is None else ()
        if are_different_numbers(folds, least=1):
            return tuple(folds)
        self.faults.append(f"folds must be 'all' or a list of different numbers from 1 on, found {folds!r}")
        return None


def _field(key: str) -> str:
    return key.replace("-", "_")


def key_of(field: str) -> str:
    """Return the key of an option in a TOML file."""
    return field.replace("_", "-")


def _advice(key: str) -> str:
    advice = OF_THE_STUDY.get(_field(key))
    return f"; {advice}" if advice else f"; the keys are {', '.join(KEYS)}"
