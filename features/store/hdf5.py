"""HDF5 parts: one contiguous dataset of values, mapped into memory at its file offset.

To read utterance i without this package:

    file = h5py.File(path)
    start, end = file["offsets"][i : i + 2]
    features = file["values"][start:end]
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from features.store.mapped import Array, MappedArray
from features.store.part import Column, Content

CHECKSUMMED = ("v108", "v108")
"""The oldest HDF5 file format that has checksums in its metadata."""
ALIGNMENT = 64
"""Size of a cache line in bytes: aligned values are copied faster."""


class Sparse:
    """In-memory sparse file, for h5py: keeps the written pieces, not the holes between them."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        """The written pieces in order, each with its offset in bytes."""
        self._at, self._size = 0, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, relative to the start or the end (SEEK_END), and return it."""
        self._at = offset + (self._size if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def write(self, data: Any) -> int:
        """Write bytes at the position and return their number."""
        piece = bytes(data)
        self.pieces.append((self._at, piece))
        self._at += len(piece)
        self._size = max(self._size, self._at)
        return len(piece)

    def read(self, size: int) -> bytes:
        """Read `size` bytes; holes are zeros."""
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position and return its size; holes are zeros."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        for start, piece in self.pieces:
            # copy the overlap of this piece and the requested range
            first, last = max(start, self._at), min(start + len(piece), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = piece[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> None:
        """Set the size."""
        self._size = size

    def flush(self) -> None:
        """Do nothing: everything is in memory."""


def write(
    path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int | str]
) -> None:
    """Write a part as an HDF5 file.

    HDF5 writes everything except the values into memory, and reserves space for the values. Plain
    writes then copy both to the disk. HDF5 itself writes much of a file on close, where a full disk
    does not raise a clean error.
    """
    first, num_frames = values[0], sum(map(len, values))
    index = Sparse()
    with h5py.File(index, "w", libver=CHECKSUMMED, alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        # reserve the space of the values now, and never fill it
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = h5py.h5s.create_simple((num_frames, first.shape[1]))
        kind = h5py.h5t.py_create(first.dtype, logical=True)
        offset = h5py.h5d.create(file.id, b"values", kind, shape, creation).get_offset()
        for name, column in columns.items():
            _write_column(file.id, name, _strings(column) if isinstance(column, list) else column)
        for name, value in attributes.items():
            _write_attribute(file.id, name, np.array(value.encode() if isinstance(value, str) else value))
    # a seek past the end leaves a gap of zeros
    with path.open("wb") as out:
        for start, piece in index.pieces:
            out.seek(start)
            out.write(piece)
        if offset is not None:
            out.seek(offset)
            for sequence in values:
                out.write(np.ascontiguousarray(sequence).data)


def _write_column(file: Any, name: str, column: Array) -> None:
    """Write a column as a contiguous dataset, with the low-level interface of h5py: five times as fast."""
    kind = h5py.h5t.py_create(column.dtype, logical=True)
    dataset = h5py.h5d.create(file, name.encode(), kind, h5py.h5s.create_simple(column.shape))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(column))


def _write_attribute(file: Any, name: str, value: Array) -> None:
    """Write a scalar attribute, with the low-level interface too."""
    kind = h5py.h5t.py_create(value.dtype, logical=True)
    attribute = h5py.h5a.create(file, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(value, kind)


def _strings(texts: list[bytes]) -> Array:
    """Return UTF-8 as an array of fixed-length strings.

    They lie inside the dataset; HDF5 would store variable-length ones elsewhere.
    """
    return np.array(texts, h5py.string_dtype("utf-8", max(1, *map(len, texts))))


def read(path: Path, columns: Sequence[str], attributes: Mapping[str, type], with_values: bool) -> Content:
    """Read columns and attributes, and locate the values.

    Uses the low-level interface of h5py, and few of its objects: a large store has thousands of parts.
    Raises ValueError if the values are not two-dimensional and contiguous, or are cut short.
    """
    file = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _access())
    try:
        return _read(file, path, columns, attributes, with_values)
    except BaseException:
        file.close()  # the traceback refers to the file
        raise
    # otherwise the file is closed as soon as nothing refers to it: `close` looks at all objects of h5py


def _read(file: Any, path: Path, columns: Sequence[str], attributes: Mapping[str, type], with_values: bool) -> Content:
    """Read the content of an open file."""
    found = {name: _column(h5py.h5d.open(file, name.encode())) for name in columns}
    values: dict[str, int | str] = {}
    for name, kind in attributes.items():
        if h5py.h5a.exists(file, name.encode()):  # an earlier version may have written this part
            attribute = h5py.h5a.open(file, name.encode())
            values[name] = _integer(attribute) if kind is int else _string(attribute)
    if not with_values:
        return Content(values, found, None)
    dataset = h5py.h5d.open(file, b"values")
    shape, dtype, offset = dataset.shape, _dtype(dataset.get_type()), dataset.get_offset()
    if len(shape) != 2:
        raise ValueError(f"values must have two dimensions, found {shape}")
    # HDF5 gives no offset for chunked datasets, nor for empty ones
    if offset is None and 0 not in shape:
        raise ValueError("values must be contiguous and unfiltered")
    return Content(values, found, MappedArray(path, dtype, offset or 0, shape))


@cache
def _access() -> Any:
    """Return how files are opened: without a lock, and closed together with all that is open in them."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    return access


def _column(dataset: Any) -> Column:
    """Read a dataset of fixed-length strings or of numbers."""
    kind = dataset.get_type()
    data = np.empty(dataset.shape, _dtype(kind))
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, data, kind)
    column: Column = data.tolist() if data.dtype.kind == "S" else data
    return column


def _integer(attribute: Any) -> int:
    """Read an attribute that is an integer."""
    number = np.zeros((), np.int64)
    attribute.read(number, h5py.h5t.NATIVE_INT64)
    return int(number)


def _string(attribute: Any) -> str:
    """Read an attribute that is a string."""
    kind = attribute.get_type()
    text = np.zeros((), _dtype(kind))
    attribute.read(text, kind)
    return bytes(text[()]).decode()


def _dtype(kind: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of a type of HDF5; ValueError for strings of variable length."""
    if kind.get_class() == h5py.h5t.STRING:
        if kind.is_variable_str():
            raise ValueError("strings must have a fixed length")
        return np.dtype((np.bytes_, kind.get_size()))
    for known, dtype in _KNOWN.items():  # ten times as fast as `kind.dtype`
        if kind == known:
            return dtype
    other: np.dtype[Any] = kind.dtype
    return other


_KNOWN: dict[Any, np.dtype[Any]] = {
    h5py.h5t.STD_I64LE: np.dtype("<i8"),
    h5py.h5t.STD_U32LE: np.dtype("<u4"),
    h5py.h5t.IEEE_F16LE: np.dtype("<f2"),
    h5py.h5t.IEEE_F32LE: np.dtype("<f4"),
}
"""NumPy dtypes of the types that parts have."""
