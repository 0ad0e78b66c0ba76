"""One part of a store: written once, renamed into place, its values mapped into memory when they are read."""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from features.atomic_files import remove_folder, sync, sync_folder, write_atomically
from features.store.faults import FAULTS, VanishedPartError, part_error, vanished
from features.store.mapped import Array, MappedArray

Column = Array | list[str]
INDEX = ("offsets", "utterance_id")
NUM_INPUTS = {"audio": "num_samples", "text": "num_characters"}
SUFFIXES = {"hdf5": ".h5", "zarr": ".zarr"}
"""Formats of parts; the module of each is features.store.<format>."""
DAMAGED = ".damaged"
"""Appended to the name of a part that was set aside."""
REWRITTEN = ".rewritten"
"""A file whose content changes before parts are removed whose utterances stand in newer ones."""
SCANS = 10
"""How often a listing is repeated while parts are being rewritten."""
NAME_DIGITS = (16, 32, 64)
"""Hex digits of a part's name: the first choice, and where other utterances have that name already."""


@dataclass(frozen=True)
class StoredUtterance:
    """One utterance's features and what they were made from."""

    utterance_id: str
    values: Array
    """(T, D) in the store's dtype; T = 0 is legal."""
    num_inputs: int
    """Samples at 16 kHz, or characters of the normalised transcript."""
    input_sha256: str
    source: str
    """JSON: path, size, mtime_ns, start, end, channel of audio; empty object for text."""


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one part."""

    path: Path
    generation: int
    utterance_ids: list[str]
    offsets: Array
    mapped: MappedArray

    @property
    def values(self) -> Array:
        """All values (sum T, D), mapped from disk; PartError if they cannot be mapped any more."""
        try:
            return self.mapped.array()
        except FileNotFoundError as error:
            raise vanished(self.path) from error
        except OSError as error:
            raise part_error(self.path, error) from error

    @property
    def made_with(self) -> dict[str, str]:
        """Versions and device that computed the values; empty if the part does not say. PartError if it is unusable."""
        try:
            attributes = _format(self.path).read(self.path, (), ("made_with", "made_with_crc32"), False).attributes
            if not attributes:
                return {}  # written before this was recorded
            text = str(attributes["made_with"])
            if zlib.crc32(text.encode()) != attributes["made_with_crc32"]:
                raise ValueError("what made it has another crc32 than the one written with it")
            made_with: dict[str, str] = json.loads(text)
        except FAULTS as error:
            raise part_error(self.path, error) from error
        return made_with


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

    attributes: Mapping[str, int | str]
    columns: Mapping[str, Column]
    values: MappedArray | None
    """If they were asked for."""


class Format(Protocol):
    """A module that writes and reads parts; a fault in the file is one of FAULTS."""

    def write(
        self, path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int | str]
    ) -> None:
        """Write a part's values, one array (T, D) a row, and everything else."""

    def read(self, path: Path, columns: Sequence[str], attributes: Sequence[str], with_values: bool) -> Content:
        """Read these columns, and these attributes as far as the part has them; find the values."""


def format_of(path: Path) -> str:
    """Return the format of a part by the ending of its name."""
    return next(name for name, suffix in SUFFIXES.items() if path.name.endswith(suffix))


def part_paths(store: Path) -> list[Path]:
    """Return the committed parts of a store, in order of their names; together they hold every committed utterance.

    A scan of a folder can miss both an old part and the new one that replaces it, so it is repeated where
    `announce_removal` was called meanwhile. A part in the list may have gone.
    """
    endings, seen = set(SUFFIXES.values()), set[Path]()
    for _ in range(SCANS):
        before = _rewritten(store)
        found = {path for path in store.iterdir() if path.name.startswith("part-") and path.suffix in endings}
        if _rewritten(store) == before:
            return sorted(found)
        seen |= found
    return sorted(seen)


def announce_removal(store: Path) -> None:
    """Tell readers that parts will be removed now; their utterances must be committed elsewhere."""
    write_atomically(store / REWRITTEN, secrets.token_hex(8))


def _rewritten(store: Path) -> bytes | None:
    try:
        return (store / REWRITTEN).read_bytes()
    except FileNotFoundError:
        return None


def write_part(
    folder: Path,
    modality: str,
    rows: Sequence[StoredUtterance],
    generation: int,
    kind: str,
    token: str,
    made_with: Mapping[str, str] | None = None,
) -> Path:
    """Write rows as one immutable part of a format and return its path; the rename is the commit.

    The name follows from everything but the values: the same rows written twice are one part, and the first stays.
    `token` marks the temporary as this process's own.
    """
    columns: dict[str, Column] = {
        "offsets": np.concatenate([[0], np.cumsum([row.values.shape[0] for row in rows])]).astype(np.int64),
        "utterance_id": [row.utterance_id for row in rows],
        NUM_INPUTS[modality]: np.array([row.num_inputs for row in rows], np.int64),
        "input_sha256": [row.input_sha256 for row in rows],
        "source": [row.source for row in rows],
        "crc32": np.array([crc32(row.values) for row in rows], np.uint32),
    }
    origin = json.dumps(dict(made_with or {}), sort_keys=True)
    attributes: dict[str, int | str] = {
        "generation": generation,
        "index_crc32": _columns_crc32([columns[name] for name in INDEX], generation),
        "columns_crc32": _columns_crc32([column for name, column in columns.items() if name not in INDEX], 0),
        "made_with": origin,
        "made_with_crc32": zlib.crc32(origin.encode()),
    }
    path = _free_path(folder, rows, generation, SUFFIXES[kind])
    temporary = folder / f".{path.name}.{token}.tmp"
    try:
        _format(path).write(temporary, [row.values for row in rows], columns, attributes)
        sync(temporary)
        _commit(temporary, path)
    finally:
        remove(temporary)
    sync_folder(folder)
    return path


def read_part(path: Path) -> Part:
    """Open a part: its index is read and checked, its values are found. PartError if it cannot be used."""
    try:
        content = _format(path).read(path, INDEX, ("generation", "index_crc32"), with_values=True)
        offsets, ids, values = np.asarray(content.columns["offsets"]), content.columns["utterance_id"], content.values
        generation = int(content.attributes["generation"])
        if _columns_crc32([offsets, ids], generation) != content.attributes["index_crc32"]:
            raise ValueError("its index has another crc32 than the one written with it")
        if not isinstance(ids, list) or values is None or offsets.shape != (len(ids) + 1,):
            raise ValueError("values must have two dimensions, and offsets one entry more than there are utterances")
        if offsets[0] != 0 or offsets[-1] != values.shape[0] or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must describe {values.shape[0]} rows of {len(ids)} utterances")
    except FAULTS as error:
        raise part_error(path, error) from error
    return Part(path, generation, ids, offsets, values)


def read_columns(path: Path, modality: str) -> Columns:
    """Read what a part's rows were made from. PartError if it cannot be used."""
    names = (NUM_INPUTS[modality], "input_sha256", "source", "crc32")
    try:
        content = _format(path).read(path, names, ("columns_crc32",), with_values=False)
        columns = [content.columns[name] for name in names]
        if _columns_crc32(columns, 0) != content.attributes["columns_crc32"]:
            raise ValueError("what it says of its inputs has another crc32 than the one written with it")
    except FAULTS as error:
        raise part_error(path, error) from error
    lists: list[Any] = [column if isinstance(column, list) else column.tolist() for column in columns]
    return Columns(*lists)


def crc32(values: Array) -> int:
    """Return the crc32 of the bytes of an utterance's rows."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def remove(path: Path, token: str | None = None) -> None:
    """Remove a part or a temporary; a folder vanishes from sight first, as one of `token`'s temporaries if given."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path.rename(path.with_name(f".{path.name}.{token}.tmp")) if token else path)
    else:
        path.unlink(missing_ok=True)


def num_bytes(path: Path) -> int:
    """Return the bytes of a part on disk; FileNotFoundError if it has gone."""
    if path.lstat() and path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


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


def _free_path(folder: Path, rows: Sequence[StoredUtterance], generation: int, suffix: str) -> Path:
    """Return the path of a part of these rows: none that a part of other rows has."""
    about = [[row.utterance_id, row.num_inputs, row.input_sha256, row.source] for row in rows]
    digest = hashlib.sha256(json.dumps([generation, about]).encode()).hexdigest()
    paths = [folder / f"part-{digest[:count]}{suffix}" for count in NAME_DIGITS]
    ids = [row.utterance_id for row in rows]
    return next((path for path in paths if not path.exists() or _holds(path, ids, generation)), paths[-1])


def _holds(path: Path, ids: list[str], generation: int) -> bool:
    try:
        part = read_part(path)
    except VanishedPartError:
        return True
    return (part.utterance_ids, part.generation) == (ids, generation)


def _commit(temporary: Path, path: Path) -> None:
    """Rename; where the same rows are committed already, those stay."""
    if path.exists():
        return
    try:
        temporary.replace(path)
    except OSError:
        if not path.is_dir():
            raise
