"""Parts as HDF5 files: one contiguous dataset of values, mapped at its offset.

By hand: `f = h5py.File(path); o = f["offsets"][:]; x = f["values"][o[i]:o[i + 1]]`.
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
"""The oldest file format whose metadata carry checksums."""
ALIGNMENT = 64
"""Bytes of a cache line: values that begin on one are copied faster."""


class Sparse:
    """A file in memory that keeps what was written into it, and not the holes between."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self._at, self._size = 0, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, from the start or the end, and return where to."""
        self._at = offset + (self._size if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        """Return where it stands."""
        return self._at

    def write(self, data: Any) -> int:
        """Keep a piece."""
        piece = bytes(data)
        self.pieces.append((self._at, piece))
        self._at += len(piece)
        self._size = max(self._size, self._at)
        return len(piece)

    def read(self, size: int) -> bytes:
        """Read; holes are zeros."""
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; holes are zeros."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        for start, piece in self.pieces:
            first, last = max(start, self._at), min(start + len(piece), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = piece[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> None:
        """Set the size."""
        self._size = size

    def flush(self) -> None:
        """There is nothing to flush."""


def write(
    path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int | str]
) -> None:
    """Write a part as an HDF5 file.

    HDF5 makes everything but the values in memory, and leaves room for them. HDF5 itself would write much of a file
    when it is closed, and it cannot say cleanly there that the disk is full.
    """
    first, rows = values[0], sum(len(sequence) for sequence in values)
    index = Sparse()
    with h5py.File(index, "w", libver=CHECKSUMMED, alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        room = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        shape = h5py.h5s.create_simple((rows, first.shape[1]))
        kind = h5py.h5t.py_create(first.dtype, logical=True)
        offset = h5py.h5d.create(file.id, b"values", kind, shape, room).get_offset()
        for name, column in columns.items():
            file[name] = _strings(column) if isinstance(column, list) else column
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    with path.open("wb") as out:
        for start, piece in index.pieces:
            out.seek(start)
            out.write(piece)
        if offset is not None:
            out.seek(offset)
            for sequence in values:
                out.write(np.ascontiguousarray(sequence).data)


def _strings(texts: list[str]) -> Array:
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *(len(text) for text in encoded))))


def read(path: Path, columns: Sequence[str], attributes: Sequence[str], with_values: bool) -> Content:
    """Read columns and attributes, and find the values after checking that the file is as long as it says."""
    with h5py.File(path, "r", locking=False) as file:
        found: dict[str, Column] = {}
        for name in columns:
            column = file[name][:]
            found[name] = [text.decode() for text in column.tolist()] if column.dtype.kind == "S" else column
        there = file.attrs
        values = {name: _attribute(there[name]) for name in attributes if name in there}
        if not with_values:
            return Content(values, found, None)
        dataset = file["values"]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    if len(shape) != 2:
        raise ValueError(f"values must have two dimensions, found {shape}")
    if offset is None and 0 not in shape:
        raise ValueError("values must be contiguous and unfiltered")
    return Content(values, found, MappedArray(path, dtype, offset or 0, shape))


def _attribute(value: Any) -> int | str:
    return value.decode() if isinstance(value, bytes) else int(value)
