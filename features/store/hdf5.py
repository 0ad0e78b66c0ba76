"""HDF5 parts: one contiguous dataset of values, mapped into memory at its file offset.

To read utterance i without this package:

    file = h5py.File(path)
    start, end = file["offsets"][i : i + 2]
    features = file["values"][start:end]
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
            file[name] = _strings(column) if isinstance(column, list) else column
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    # a seek past the end leaves a gap of zeros
    with path.open("wb") as out:
        for start, piece in index.pieces:
            out.seek(start)
            out.write(piece)
        if offset is not None:
            out.seek(offset)
            for sequence in values:
                out.write(np.ascontiguousarray(sequence).data)


def _strings(texts: list[str]) -> Array:
    """Return texts as an array of fixed-length strings.

    They lie inside the dataset; HDF5 would store variable-length ones elsewhere.
    """
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))


def read(path: Path, columns: Sequence[str], attributes: Sequence[str], with_values: bool) -> Content:
    """Read columns and attributes, and locate the values.

    Raises ValueError if the values are not two-dimensional and contiguous, or are cut short.
    """
    with h5py.File(path, "r", locking=False) as file:
        found: dict[str, Column] = {}
        for name in columns:
            column = file[name][:]
            is_text = column.dtype.kind == "S"
            found[name] = [text.decode() for text in column.tolist()] if is_text else column
        values: dict[str, int | str] = {}
        for name in attributes:
            if name in file.attrs:
                values[name] = _attribute(file.attrs[name])
        if not with_values:
            return Content(values, found, None)
        dataset = file["values"]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    if len(shape) != 2:
        raise ValueError(f"values must have two dimensions, found {shape}")
    # HDF5 gives no offset for chunked datasets, nor for empty ones
    if offset is None and 0 not in shape:
        raise ValueError("values must be contiguous and unfiltered")
    return Content(values, found, MappedArray(path, dtype, offset or 0, shape))


def _attribute(value: Any) -> int | str:
    return value.decode() if isinstance(value, bytes) else int(value)
