"""Cells of a study: one run of train-head for each row, tuned candidate, fold and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from features.canonical import canonical_json
from features.command_lines import features_folder
from features.config import OneOf
from features.encoders.selector import parse_selectors
from features.errors import UsageError
from features.manifests.folds import find_folds
from features.store.index import stored_selectors
from features.suggestions import did_you_mean
from mervn.config import TrainHeadOptions
from mervn.study.grid import Grid, key_of
from mervn.study.toml_values import same
from mervn.training.setup import Resolved, resolve_head_options
from mervn.unread_options import unread_options

RUNS_FOLDER = "runs"
FEATURE_OPTIONS = ("audio_encoder", "text_encoder", "audio_store", "text_store", "fold_file")
"""Options outside of a run's hash, which has the content instead, that tell cells apart."""


@dataclass(frozen=True)
class Candidate:
    """The options of one row with one combination of tuned values; seed and fold are open."""

    tuned: Mapping[str, Any]
    options: TrainHeadOptions
    resolved: Resolved[TrainHeadOptions]
    identity: str
    """Equal for options that give equal runs."""

    @property
    def features(self) -> str:
        """Equal for candidates that read the same features and labels."""
        dump = self.resolved.options.model_dump(mode="json")
        names = [name for name in dump if name in _DATA_OPTIONS]
        return canonical_json({"streams": list(self.resolved.fusion.streams), **{name: dump[name] for name in names}})

    @property
    def unread(self) -> frozenset[str]:
        """The options without effect, with the pooling if the fusion has its own."""
        return frozenset(unread_options(self.options, self.resolved.fusion, self.resolved.loss))


_DATA_OPTIONS = frozenset(
    {*FEATURE_OPTIONS, "labels", "label_map", "drop_label", "allow_missing", "verify_inputs", "features_dir"}
)
"""Options that decide which utterances and features a cell reads, besides the fold."""


@dataclass(frozen=True)
class Row:
    """One row of the table: of the grid, or a baseline that the study adds."""

    axes: Mapping[str, Any]
    """The value of each axis; None if it has no effect on a baseline."""
    candidates: Sequence[Candidate]
    """Empty for the majority, which needs no cell."""
    is_reference: bool
    is_baseline: bool = False
    """Whether the study has added it to those of the grid."""
    linear: int | None = None
    """Number of the row with the linear head on the same features; None if nothing is compared."""

    def __str__(self) -> str:
        if not self.is_baseline:
            return describe(self.axes)
        kind = self.candidates[0].options.fusion if self.candidates else "majority"
        return f"{kind} {describe({name: value for name, value in self.axes.items() if name != 'fusion'})}".strip()


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    row: int
    candidate: int
    fold: int | None
    seed: int
    options: TrainHeadOptions
    """With seed, fold and the run folder."""
    features: str
    """Equal for cells that read the same split of the same features."""

    @property
    def run(self) -> Path:
        """The run folder."""
        if self.options.output is None:
            raise ValueError("a cell must have a run folder")
        return self.options.output

    @property
    def name(self) -> str:
        """The name of the run folder; unique in a study."""
        return self.run.name

    def as_json(self) -> dict[str, Any]:
        """Return the options as a JSON object; `TrainHeadOptions.model_validate` is the inverse."""
        document: dict[str, Any] = json.loads(self.options.model_dump_json())
        return document


def describe(axes: Mapping[str, Any]) -> str:
    """Return values of options as text, such as `fusion=late dim=64`."""
    return " ".join(f"{key_of(name)}={shown(value)}" for name, value in axes.items() if value is not None)


def shown(value: Any) -> str:
    """Return a value of a TOML file as text; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def make_rows(grid: Grid, place: Mapping[str, Any], data: Path = Path("data")) -> list[Row]:
    """Return the rows of the table with their candidates, all of them checked.

    `place` are the options of the study, such as the features folder. UsageError lists the faults: an
    invalid value, options that contradict each other, two equal rows, or an option that no row
    reads.
    """
    rows: list[Row] = []
    faults: dict[str, str] = {}  # by fault, the first row that has it
    for axes in grid.combinations():
        candidates: dict[str, Candidate] = {}
        for tuned in grid.tuned():
            try:
                candidate = make_candidate(grid, place, axes, tuned, data)
            except UsageError as error:
                for line in str(error).splitlines():
                    faults.setdefault(line, describe({**axes, **tuned}))
                continue
            # values of options that this row does not read give equal candidates
            candidates.setdefault(candidate.identity, candidate)
        is_reference = all(same(axes[axis], value) for axis, value in grid.reference.items())
        rows.append(Row(axes, list(candidates.values()), is_reference))
    lines = [f"{fault} (in {place_of})" for fault, place_of in faults.items()]
    lines = lines or [*_equal_rows(rows), *_unread(grid, rows)]
    if lines:
        raise UsageError("\n".join(f"{grid.path}: {line}" for line in lines))
    return rows


def make_candidate(
    grid: Grid, place: Mapping[str, Any], axes: Mapping[str, Any], tuned: Mapping[str, Any], data: Path
) -> Candidate:
    """Return the candidate of a row with these tuned values; UsageError if they cannot be trained."""
    values = {**place, **grid.base, **axes, **tuned}
    try:
        options = TrainHeadOptions.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(map(_explain, error.errors()))) from error
    folder = features_folder(options.features_dir, data)
    for modality in ("audio", "text"):
        if (text := getattr(options, f"{modality}_encoder")) is not None:
            stored_selectors(text, modality, folder)
    return resolve_candidate(options, tuned)


def resolve_candidate(options: TrainHeadOptions, tuned: Mapping[str, Any]) -> Candidate:
    """Resolve the options of one candidate; the options that they leave unread have no effect.

    UsageError for options that contradict each other.
    """
    options = options.with_general(options.model_fields_set)
    selectors: dict[str, str] = {}
    for modality in ("audio", "text"):
        if (text := getattr(options, f"{modality}_encoder")) is not None:
            selectors[f"{modality}_encoder"] = "+".join(map(str, parse_selectors(text, modality, imported=True)))
    resolved = resolve_head_options(options)
    hashed = resolved.options.model_copy(update={name: selectors[name] for name in selectors.keys() - resolved.unread})
    read = {name: value for name, value in tuned.items() if name not in resolved.unread}
    return Candidate(read, options, resolved, _identity(hashed, resolved))


def _identity(options: TrainHeadOptions, resolved: Resolved[TrainHeadOptions]) -> str:
    """Return a text that is equal for options that give equal runs."""
    left_out = {*(TrainHeadOptions.not_in_hash() - set(FEATURE_OPTIONS)), "seed", "fold"}
    document = json.loads(options.model_dump_json(exclude=left_out))
    modules = {role: module.as_json() for role, module in resolved.custom_modules.items()}
    return canonical_json({"options": document, "modules": modules})


def _explain(detail: ErrorDetails) -> str:
    """Return the error of one option: what it must be, and what was found."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    field = str(detail["loc"][0])
    near = did_you_mean(str(detail["input"]), choices(field))
    return f"--{key_of(field)}: {message[0].lower()}{message[1:]}, found {detail['input']!r}{near}"


def choices(field: str) -> list[str]:
    """Return the valid values of an option of train-head that has a fixed set of them, else none."""
    annotation = TrainHeadOptions.model_fields[field].annotation
    found = list(map(str, get_args(annotation))) if get_origin(annotation) is Literal else []
    for mark in TrainHeadOptions.marks(field):
        found += mark.names if isinstance(mark, OneOf) else ()
    return found


def _equal_rows(rows: Sequence[Row]) -> Iterable[str]:
    """Yield a message for each row that trains the same as an earlier one."""
    first: dict[str, Row] = {}
    for row in rows:
        identity = identity_of(row.candidates)
        if identity in first:
            yield (
                f"two rows are the same: {first[identity]} and {row}; leave one out, "
                'or vary one axis at a time (design = "one-at-a-time")'
            )
        first.setdefault(identity, row)


def identity_of(candidates: Iterable[Candidate]) -> str:
    """Return a text that is equal for rows whose candidates give equal runs."""
    return canonical_json({"candidates": sorted(candidate.identity for candidate in candidates)})


def _unread(grid: Grid, rows: Sequence[Row]) -> Iterable[str]:
    """Yield a message for each option of the grid that no row reads."""
    unread = [candidate.unread for row in rows for candidate in row.candidates]
    for table, options in (("base", grid.base), ("rows", grid.rows), ("tune", grid.tune_values)):
        for name in options:
            if unread and all(name in names for names in unread):
                yield f"[{table}] {key_of(name)} has no effect on any row; leave it out"


def fold_numbers(grid: Grid, rows: Sequence[Row], data: Path) -> list[int | None]:
    """Return the folds of a study; None alone for the splits of the manifests.

    UsageError for a fold that the file of the folds does not have.
    """
    if grid.folds is None:
        return [None]
    explicit = {row.candidates[0].options.fold_file for row in rows}
    if len(explicit) > 1:
        raise UsageError(f"{grid.path}: fold-file must be in [base], so that all rows have the same folds")
    folds = find_folds(data, explicit.pop())
    for number in grid.folds:
        folds.fold(number)
    return list(grid.folds or range(1, len(folds) + 1))


def make_cells(grid: Grid, rows: Sequence[Row], folds: Sequence[int | None], output: Path) -> list[Cell]:
    """Return the cells of a study; those that read the same features are neighbours.

    A cell's folder is named by its configuration, so that a study with more rows or seeds finds the
    cells that exist. A linear head has no seed, so the first one is enough.
    """
    cells = []
    for number, row in enumerate(rows):
        for which, fold, seed in product(range(len(row.candidates)), folds, grid.seeds):
            candidate = row.candidates[which]
            if candidate.resolved.fusion.linear and seed != grid.seeds[0]:
                continue
            changes: dict[str, Any] = {
                "seed": seed,
                "fold": None if fold is None else str(fold),
                "output": output / RUNS_FOLDER / _folder(candidate, fold, seed),
            }
            if not _sets(grid, "checkpoint_every"):
                changes["checkpoint_every"] = 0  # a cell is short: after a crash it is repeated
            options = candidate.options.model_copy(update=changes)
            options = options.with_general(options.model_fields_set)  # the row may leave them unread
            cells.append(Cell(number, which, fold, seed, options, f"{candidate.features} {fold}"))
    order: dict[str, int] = {}
    for cell in cells:
        order.setdefault(cell.features, len(order))
    return sorted(cells, key=lambda cell: order[cell.features])


def _sets(grid: Grid, option: str) -> bool:
    return any(option in table for table in (grid.base, grid.rows, grid.tune_values))


def _folder(candidate: Candidate, fold: int | None, seed: int) -> str:
    """Return the name of a run folder, such as xattn-attn-fold1-seed0-1a2b3c4d5e."""
    digest = hashlib.sha256(candidate.identity.encode()).hexdigest()[:10]
    options = candidate.resolved.options
    names = [options.fusion, options.pooling, *([] if fold is None else [f"fold{fold}"]), f"seed{seed}", digest]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(Path(name).name for name in names))
