"""Parts: immutable files that hold the features of some utterances; a rename commits them, and reading maps them."""

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
FORMATS = {".h5": "hdf5", ".zarr": "zarr"}
"""Part format of each file name suffix."""
SUFFIXES = {"hdf5": ".h5", "zarr": ".zarr"}
"""File name suffix of each part format. The module of a format is features.store.<format>."""
DAMAGED = ".damaged"
"""Suffix added to the name of a damaged part that was set aside."""
REWRITTEN = ".rewritten"
"""File that gets new content before parts are removed. A reader that sees it change lists the parts again."""
SCANS = 10
"""Maximum number of listings while another process replaces parts."""
NAME_DIGITS = (16, 32, 64)
"""Hex digits of a part's name: the first length whose name is free or belongs to the same utterances."""


@dataclass(frozen=True)
class StoredUtterance:
    """Features of one utterance, with a description of the input that they were computed from."""

    utterance_id: str
    values: Array
    """(T, D) in the store's dtype; T = 0 is allowed."""
    num_inputs: int
    """Samples at 16 kHz, or characters of the normalised transcript."""
    input_sha256: str
    source: str
    """JSON: path, size, mtime_ns, start, end, channel of audio; empty object for text."""


@dataclass(frozen=True, eq=False)
class Part:
    """An opened part: its utterances, and their features mapped from disk."""

    path: Path
    generation: int
    utterance_ids: list[str]
    offsets: Array
    """(N + 1,) int64; the frames of utterance i are `values[offsets[i] : offsets[i + 1]]`."""
    mapped: MappedArray

    @property
    def values(self) -> Array:
        """Values (sum T, D) of all utterances, mapped from disk; PartError if they cannot be mapped any more."""
        try:
            return self.mapped.array()
        except FileNotFoundError as error:
            raise vanished(self.path) from error
        except OSError as error:
            raise part_error(self.path, error) from error

    @property
    def made_with(self) -> dict[str, str]:
        """Versions and device that computed the values; empty if not recorded. PartError if the record is damaged."""
        try:
            attributes = _format(self.path).read(self.path, (), ("made_with", "made_with_crc32"), False).attributes
            if not attributes:
                return {}  # an earlier version wrote this part
            text = str(attributes["made_with"])
            if zlib.crc32(text.encode()) != attributes["made_with_crc32"]:
                raise ValueError("the crc32 of made_with differs from the stored one")
            made_with: dict[str, str] = json.loads(text)
        except FAULTS as error:
            raise part_error(self.path, error) from error
        return made_with


@dataclass(frozen=True)
class Columns:
    """Inputs and checksums of a part's utterances, one list entry per utterance."""

    num_inputs: list[int]
    input_sha256: list[str]
    source: list[str]
    crc32: list[int]


@dataclass(frozen=True)
class Content:
    """Data that a format read from a part."""

    attributes: Mapping[str, int | str]
    columns: Mapping[str, Column]
    values: MappedArray | None
    """None if the caller did not request them."""


class Format(Protocol):
    """Module that writes and reads one part format. A damaged file raises one of FAULTS."""

    def write(
        self, path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int | str]
    ) -> None:
        """Write the values, one array (T, D) per utterance, the columns and the attributes."""

    def read(self, path: Path, columns: Sequence[str], attributes: Sequence[str], with_values: bool) -> Content:
        """Read columns, existing attributes and, if requested, the location of the values."""


def format_of(path: Path) -> str:
    """Return the format of a part, or of a temporary file of one such as .part-1.h5.TOKEN.tmp."""
    for suffix in path.suffixes:
        if suffix in FORMATS:
            return FORMATS[suffix]
    raise ValueError(f"a part must have one of the suffixes {', '.join(FORMATS)}, found {path}")


def part_paths(store: Path) -> list[Path]:
    """Return the committed parts of a store, sorted by name; together they hold every committed utterance.

    One scan of a folder can miss both an old part and the new one that replaces it. The scan is therefore repeated
    if `announce_removal` was called meanwhile. A listed part may no longer exist.
    """
    seen = set[Path]()
    for _ in range(SCANS):
        before = _rewritten(store)
        found = {path for path in store.iterdir() if path.name.startswith("part-") and path.suffix in FORMATS}
        if _rewritten(store) == before:
            return sorted(found)
        seen |= found
    return sorted(seen)


def announce_removal(store: Path) -> None:
    """Tell readers that parts will be removed now. Their utterances must already be committed in other parts."""
    write_atomically(store / REWRITTEN, secrets.token_hex(8))


def _rewritten(store: Path) -> bytes | None:
    try:
        return (store / REWRITTEN).read_bytes()
    except FileNotFoundError:
        return None


def write_part(
    folder: Path,
    modality: str,
    utterances: Sequence[StoredUtterance],
    generation: int,
    kind: str,
    token: str,
    made_with: Mapping[str, str] | None = None,
) -> Path:
    """Write utterances as one immutable part of format `kind` and return its path; the rename is the commit.

    The name is a hash of everything except the values: if the same utterances are written twice, the first part stays.
    `token` marks the temporary file as this process's own.
    """
    columns = _columns_of(utterances, modality)
    origin = json.dumps(dict(made_with or {}), sort_keys=True)
    attributes: dict[str, int | str] = {
        "generation": generation,
        "index_crc32": _columns_crc32([columns[name] for name in INDEX], generation),
        "columns_crc32": _columns_crc32([column for name, column in columns.items() if name not in INDEX], 0),
        "made_with": origin,
        "made_with_crc32": zlib.crc32(origin.encode()),
    }
    path = _free_path(folder, utterances, generation, SUFFIXES[kind])
    temporary = folder / f".{path.name}.{token}.tmp"
    try:
        _format(path).write(temporary, [utterance.values for utterance in utterances], columns, attributes)
        sync(temporary)
        _commit(temporary, path)
    finally:
        remove(temporary)
    sync_folder(folder)
    return path


def _columns_of(utterances: Sequence[StoredUtterance], modality: str) -> dict[str, Column]:
    offsets, ids, num_inputs, hashes, sources, checksums = [0], [], [], [], [], []
    for utterance in utterances:
        offsets.append(offsets[-1] + utterance.values.shape[0])
        ids.append(utterance.utterance_id)
        num_inputs.append(utterance.num_inputs)
        hashes.append(utterance.input_sha256)
        sources.append(utterance.source)
        checksums.append(crc32(utterance.values))
    return {  # the checksums depend on this order
        "offsets": np.array(offsets, np.int64),
        "utterance_id": ids,
        NUM_INPUTS[modality]: np.array(num_inputs, np.int64),
        "input_sha256": hashes,
        "source": sources,
        "crc32": np.array(checksums, np.uint32),
    }


def read_part(path: Path) -> Part:
    """Open a part: read and check its index, and locate its values. PartError if it cannot be used."""
    try:
        content = _format(path).read(path, INDEX, ("generation", "index_crc32"), with_values=True)
        offsets, ids, values = np.asarray(content.columns["offsets"]), content.columns["utterance_id"], content.values
        generation = int(content.attributes["generation"])
        if _columns_crc32([offsets, ids], generation) != content.attributes["index_crc32"]:
            raise ValueError("the crc32 of its index differs from the stored one")
        if not isinstance(ids, list) or values is None or offsets.shape != (len(ids) + 1,):
            raise ValueError("values must have two dimensions, and offsets one entry more than utterance_id")
        if offsets[0] != 0 or offsets[-1] != values.shape[0] or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to {values.shape[0]}, the number of stored frames or tokens")
    except FAULTS as error:
        raise part_error(path, error) from error
    return Part(path, generation, ids, offsets, values)


def read_columns(path: Path, modality: str) -> Columns:
    """Read the inputs and checksums of a part's utterances. PartError if they cannot be used."""
    names = (NUM_INPUTS[modality], "input_sha256", "source", "crc32")
    try:
        content = _format(path).read(path, names, ("columns_crc32",), with_values=False)
        columns = [content.columns[name] for name in names]
        if _columns_crc32(columns, 0) != content.attributes["columns_crc32"]:
            raise ValueError("the crc32 of its input columns differs from the stored one")
    except FAULTS as error:
        raise part_error(path, error) from error
    lists: list[Any] = [column if isinstance(column, list) else column.tolist() for column in columns]
    return Columns(*lists)


def crc32(values: Array) -> int:
    """Return the crc32 of the bytes of an utterance's features."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def remove(path: Path, token: str | None = None) -> None:
    """Remove a part or a temporary file. A folder is renamed first, to a temporary name of `token` if given."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path.rename(path.with_name(f".{path.name}.{token}.tmp")) if token else path)
    else:
        path.unlink(missing_ok=True)


def num_bytes(path: Path) -> int:
    """Return the size of a part on disk, in bytes; FileNotFoundError if it no longer exists."""
    if path.lstat() and path.is_file():
        return path.stat().st_size
    total = 0
    for file in path.rglob("*"):
        total += file.stat().st_size if file.is_file() else 0
    return total


def _format(path: Path) -> Format:
    module: Any = import_module(f"features.store.{format_of(path)}")
    found: Format = module
    return found


def _columns_crc32(columns: Sequence[Column], start: int) -> int:
    found = start
    for column in columns:
        data = json.dumps(column).encode() if isinstance(column, list) else np.ascontiguousarray(column).tobytes()
        found = zlib.crc32(data, found)
    return found


def _free_path(folder: Path, utterances: Sequence[StoredUtterance], generation: int, suffix: str) -> Path:
    """Return the path of a part of these utterances, with more digits if other utterances have the shorter name."""
    inputs, ids = [], []
    for one in utterances:
        inputs.append([one.utterance_id, one.num_inputs, one.input_sha256, one.source])
        ids.append(one.utterance_id)
    digest = hashlib.sha256(json.dumps([generation, inputs]).encode()).hexdigest()
    for count in NAME_DIGITS:
        path = folder / f"part-{digest[:count]}{suffix}"
        if not path.exists() or _holds(path, ids, generation):
            break
    return path


def _holds(path: Path, ids: list[str], generation: int) -> bool:
    """Return whether a part holds these utterances; True if it was removed meanwhile, because its name is free then."""
    try:
        part = read_part(path)
    except VanishedPartError:
        return True
    return (part.utterance_ids, part.generation) == (ids, generation)


def _commit(temporary: Path, path: Path) -> None:
    """Rename the temporary file, unless the same utterances are already committed."""
    if path.exists():
        return
    try:
        temporary.replace(path)
    except OSError:
        if not path.is_dir():  # another process committed the same folder between the check and the rename
            raise
