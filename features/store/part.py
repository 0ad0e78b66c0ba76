"""Parts: immutable files that hold the features of some utterances.

A part is committed by a rename, and its values are memory-mapped to read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from zlib_ng import zlib_ng

from features.hash_index import hashes_of_utf8
from features.store.faults import FAULTS, part_error, vanished
from features.store.mapped import Array, MappedArray
from features.store.part_files import format_of
from features.texts import Texts

Column = Array | list[bytes]
"""One entry per utterance: numbers, or strings as UTF-8."""
PRINTABLE = bytes(range(0x20, 0x7F))
"""Characters that JSON keeps, except that it escapes quotes and backslashes."""
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
"""NumPy dtype of the values of each `store_dtype`."""
INDEX = ("offsets", "utterance_id")
"""Columns that every reader needs; the others describe the inputs."""
INDEX_ATTRIBUTES = {"generation": int, "index_crc32": int}
NUM_INPUTS = {"audio": "num_samples", "text": "num_characters"}
"""Name of the column with the length of the inputs, by modality."""
_import: Callable[[str], Any] = cache(import_module)


@dataclass(frozen=True)
class StoredUtterance:
    """Features of one utterance, with a description of the input that they were computed from."""

    utterance_id: str
    values: Array
    """(T, D) in the store's dtype; T = 0 is allowed."""
    num_inputs: int
    """Samples at 16 kHz, or characters of the normalised transcript."""
    input_sha256: str
    """Hex digest of the samples before resampling, or of the normalised transcript."""
    source: str
    """JSON: path, size, mtime_ns, start, end, channel of audio; empty object for text."""


@dataclass(frozen=True, eq=False)
class Part:
    """An opened part: its utterances, and their features mapped from disk."""

    path: Path
    generation: int
    utterance_ids: Texts
    hashes: Array
    """(N,) uint32: the hashes of the ids, see `HashIndex`."""
    offsets: Array
    """(N + 1,) unsigned; the frames of utterance i are `values[offsets[i] : offsets[i + 1]]`."""
    mapped: MappedArray

    def __len__(self) -> int:
        return len(self.utterance_ids)

    def num_frames(self, index: int) -> int:
        """Return the number of frames or tokens of the utterance at this index."""
        return int(self.offsets[index + 1] - self.offsets[index])

    @property
    def values(self) -> Array:
        """Values (sum T, D) of all utterances, mapped from disk.

        Raises PartError if they cannot be mapped any more.
        """
        return self._read(self.mapped.array)

    @property
    def unmarked_values(self) -> Array:
        """`values` as an array that is not marked as read-only, see `unmarked`."""
        return self._read(self.mapped.unmarked)

    def _read(self, mapped: Callable[[], Array]) -> Array:
        """Return the result of a function that maps the values; raises PartError if they cannot be mapped any more."""
        try:
            return mapped()
        except FileNotFoundError as error:
            raise vanished(self.path) from error
        except OSError as error:
            raise part_error(self.path, error) from error

    @property
    def made_with(self) -> dict[str, str]:
        """Versions and device that computed the values.

        Empty if they are not recorded. Raises PartError if the record is damaged.
        """
        wanted = {"made_with": str, "made_with_crc32": int}
        try:
            content = format_module(self.path).read(self.path, (), wanted, with_values=False)
            attributes = content.attributes
            if not attributes:
                return {}  # an earlier version wrote this part
            text = str(attributes["made_with"])
            if zlib_ng.crc32(text.encode()) != attributes["made_with_crc32"]:
                raise ValueError("the crc32 of made_with differs from the stored one")
            made_with: dict[str, str] = json.loads(text)
        except FAULTS as error:
            raise part_error(self.path, error) from error
        return made_with


@dataclass(frozen=True)
class Columns:
    """Inputs and checksums of a part's utterances, one entry per utterance."""

    num_inputs: Array
    input_sha256: Texts
    source: Texts
    crc32: Array


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
        """Write the values, one array (T, D) per utterance, with the columns and attributes."""

    def read(self, path: Path, columns: Sequence[str], attributes: Mapping[str, type], with_values: bool) -> Content:
        """Read columns, and attributes (if they exist) by their type; locate the values if `with_values`."""


def read_part(path: Path) -> Part:
    """Open a part: read and check its index, and locate its values.

    Raises PartError if it cannot be used.
    """
    try:
        content = format_module(path).read(path, INDEX, INDEX_ATTRIBUTES, with_values=True)
        offsets, ids = np.asarray(content.columns["offsets"]), content.columns["utterance_id"]
        values = content.values
        generation = int(content.attributes["generation"])
        if columns_crc32([offsets, ids], generation) != content.attributes["index_crc32"]:
            raise ValueError("the crc32 of its index differs from the stored one")
        if not isinstance(ids, list) or values is None or offsets.shape != (len(ids) + 1,):
            raise ValueError("values must have two dimensions, and offsets one entry more than utterance_id")
        # an offset that falls would give an utterance a negative length
        if offsets[0] != 0 or offsets[-1] != values.shape[0] or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"offsets must rise from 0 to {values.shape[0]}, the number of stored frames or tokens")
        texts = Texts.of_utf8(ids)
    except FAULTS as error:
        raise part_error(path, error) from error
    # the smallest type that holds the number of frames
    short = offsets.astype(np.min_scalar_type(values.shape[0]))
    return Part(path, generation, texts, hashes_of_utf8(ids), short, values)


def read_columns(path: Path, modality: str) -> Columns:
    """Read the inputs and checksums of a part's utterances.

    Raises PartError if they cannot be used.
    """
    names = (NUM_INPUTS[modality], "input_sha256", "source", "crc32")
    try:
        content = format_module(path).read(path, names, {"columns_crc32": int}, with_values=False)
        columns = [content.columns[name] for name in names]
        if columns_crc32(columns, 0) != content.attributes["columns_crc32"]:
            raise ValueError("the crc32 of its input columns differs from the stored one")
        compact: list[Any] = [Texts.of_utf8(column) if isinstance(column, list) else column for column in columns]
    except FAULTS as error:
        raise part_error(path, error) from error
    return Columns(*compact)


def crc32(values: Array) -> int:
    """Return the crc32 of the bytes of an utterance's features."""
    return zlib_ng.crc32(np.ascontiguousarray(values).data)


def format_module(path: Path) -> Format:
    """Return the module that reads and writes the format of a part."""
    module: Format = _import(f"features.store.{format_of(path)}")
    return module


def columns_crc32(columns: Sequence[Column], start: int) -> int:
    """Return the crc32 of columns, with the number `start` as the crc32 of the data before them."""
    found = start
    for column in columns:
        # each format stores strings and numbers in its own way, so hash a common form
        data = _json_of(column) if isinstance(column, list) else np.ascontiguousarray(column).tobytes()
        found = zlib_ng.crc32(data, found)
    return found


def _json_of(strings: list[bytes]) -> bytes:
    """Return the JSON of a list of strings, as `json.dumps` writes it."""
    joined = b"\0".join(strings)
    if strings and len(joined.translate(None, PRINTABLE)) == len(strings) - 1:  # what is left separates the strings
        escaped = joined.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return b'["' + escaped.replace(b"\0", b'", "') + b'"]'
    return json.dumps([string.decode() for string in strings]).encode()
