"""One part of a store: written once, renamed into place, its values mapped into memory for reading."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from features.errors import InputError
from features.store.identity import remove_folder, sync, sync_folder

Array = np.ndarray[Any, np.dtype[Any]]
Column = Array | list[str]
NUM_INPUTS = {"audio": "num_samples", "text": "num_characters"}
SUFFIXES = {"hdf5": ".h5", "zarr": ".zarr"}
"""Formats of parts; the module of each is features.store.<format>."""
FAULTS = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
"""What reading a file with flipped bits can raise."""
DAMAGED = ".damaged"
"""Appended to the name of a part that was set aside."""


@dataclass(frozen=True)
class Row:
    """One utterance's features and what they were made from."""

    utterance_id: str
    values: Array
    """(T, D) in the store's dtype; T = 0 is legal."""
    num_inputs: int
    """Samples at 16 kHz, or characters of the normalised transcript."""
    input_sha256: str
    source: str
    """JSON: path, size, mtime_ns, start, end, channel of audio; empty object for text."""


@dataclass(frozen=True)
class Part:
    """The rows of one part, values mapped into memory."""

    path: Path
    generation: int
    utterance_ids: list[str]
    offsets: Array
    values: Array


@dataclass(frozen=True)
class Columns:
    """What a part's rows were made from, one entry a row."""

    num_inputs: list[int]
    input_sha256: list[str]
    source: list[str]
    crc32: list[int]


@dataclass(frozen=True)
class Content:
    """What a format finds in a part."""

    attributes: Mapping[str, int]
    columns: Mapping[str, Column]
    values: Array | None
    """Mapped, if they were asked for."""


class Format(Protocol):
    """A module that writes and reads parts; a fault in the file is one of FAULTS."""

    def write(
        self, path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int]
    ) -> None:
        """Write a part's values, one array (T, D) a row, and everything else."""

    def read(self, path: Path, columns: Sequence[str], with_values: bool) -> Content:
        """Read attributes and these columns, and map the values."""


def format_of(path: Path) -> str:
    """Return the format of a part by the ending of its name."""
    return next(name for name, suffix in SUFFIXES.items() if path.name.endswith(suffix))


def part_paths(store: Path) -> list[Path]:
    """Return the committed parts of a store, in order of their names."""
    return sorted(path for suffix in SUFFIXES.values() for path in store.glob(f"part-*{suffix}"))


def write_part(folder: Path, modality: str, rows: Sequence[Row], generation: int, kind: str, token: str) -> Path:
    """Write rows as one immutable part of a format and return its path; the rename is the commit.

    The name follows from the ids and the generation: the same rows written twice are one part. `token` marks the
    temporary as this process's own.
    """
    digest = hashlib.sha256("\n".join([str(generation), *(row.utterance_id for row in rows)]).encode())
    path = folder / f"part-{digest.hexdigest()[:8]}{SUFFIXES[kind]}"
    temporary = folder / f".{path.name}.{token}.tmp"
    columns: dict[str, Column] = {
        "offsets": np.concatenate([[0], np.cumsum([row.values.shape[0] for row in rows])]).astype(np.int64),
        "utterance_id": [row.utterance_id for row in rows],
        NUM_INPUTS[modality]: np.array([row.num_inputs for row in rows], np.int64),
        "input_sha256": [row.input_sha256 for row in rows],
        "source": [row.source for row in rows],
        "crc32": np.array([crc32(row.values) for row in rows], np.uint32),
    }
    index = ("offsets", "utterance_id")
    attributes = {
        "generation": generation,
        "index_crc32": _columns_crc32([columns[name] for name in index], generation),
        "columns_crc32": _columns_crc32([column for name, column in columns.items() if name not in index], 0),
    }
    try:
        _format(path).write(temporary, [row.values for row in rows], columns, attributes)
        sync(temporary)
        _commit(temporary, path)
    finally:
        remove(temporary)
    sync_folder(folder)
    return path


def read_part(path: Path) -> Part:
    """Open a part: its index is read and checked, its values are mapped. InputError if the part is not whole."""
    try:
        content = _format(path).read(path, ("offsets", "utterance_id"), with_values=True)
        offsets, ids, values = np.asarray(content.columns["offsets"]), content.columns["utterance_id"], content.values
        generation = int(content.attributes["generation"])
        if _columns_crc32([offsets, ids], generation) != content.attributes["index_crc32"]:
            raise ValueError("its index has another crc32 than the one written with it")
        if not isinstance(ids, list) or values is None or values.ndim != 2 or offsets.shape != (len(ids) + 1,):
            raise ValueError("values must have two dimensions, and offsets one entry more than there are utterances")
        if offsets[0] != 0 or offsets[-1] != values.shape[0] or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must describe {values.shape[0]} rows of {len(ids)} utterances")
    except FAULTS as error:
        raise damaged(path, error) from error
    return Part(path, generation, ids, offsets, values)


def read_columns(path: Path, modality: str) -> Columns:
    """Read what a part's rows were made from. InputError if the part is not whole."""
    names = (NUM_INPUTS[modality], "input_sha256", "source", "crc32")
    try:
        content = _format(path).read(path, names, with_values=False)
        columns = [content.columns[name] for name in names]
        if _columns_crc32(columns, 0) != content.attributes["columns_crc32"]:
            raise ValueError("what it says of its inputs has another crc32 than the one written with it")
    except FAULTS as error:
        raise damaged(path, error) from error
    lists: list[Any] = [column if isinstance(column, list) else column.tolist() for column in columns]
    return Columns(*lists)


def damaged(path: Path, why: object) -> InputError:
    """Return the error that names a part that cannot be trusted, and says what to do."""
    return InputError(
        f"{path} must be a whole part of this feature store, found: {why}. Set it aside with "
        f"`mervn store verify {path.parent} --set-aside`, then run the same `mervn extract` again: only its "
        "utterances are encoded anew"
    )


def crc32(values: Array) -> int:
    """Return the crc32 of the bytes of an utterance's rows."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def remove(path: Path) -> None:
    """Remove a part or a temporary; a folder vanishes from sight first."""
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def num_bytes(path: Path) -> int:
    """Return the bytes of a part on disk."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _format(path: Path) -> Format:
    name = next(kind for kind, suffix in SUFFIXES.items() if f"{suffix}." in f"{path.name}.")
    module: Any = import_module(f"features.store.{name}")
    found: Format = module
    return found


def _columns_crc32(columns: Sequence[Column], start: int) -> int:
    found = start
    for column in columns:
        data = json.dumps(column).encode() if isinstance(column, list) else np.ascontiguousarray(column).tobytes()
        found = zlib.crc32(data, found)
    return found


def _commit(temporary: Path, path: Path) -> None:
    """Rename; where another process was first with the same rows, theirs stay."""
    try:
        temporary.replace(path)
    except OSError:
        if not path.is_dir():
            raise
