"""Parts as HDF5 files: one contiguous dataset of values, mapped at its offset.

By hand: `f = h5py.File(path); o = f["offsets"][:]; x = f["values"][o[i]:o[i + 1]]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from features.store.part import Array, Column, Content

CHECKSUMMED = ("v108", "v108")
"""The oldest file format whose metadata carry checksums."""


def write(path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int]) -> None:
    """Write a part as an HDF5 file."""
    with h5py.File(path, "w", libver=CHECKSUMMED) as file:
        first = values[0]
        rows = sum(len(sequence) for sequence in values)
        dataset = file.create_dataset("values", (rows, first.shape[1]), first.dtype)
        start = 0
        for sequence in values:
            if len(sequence):
                dataset[start : start + len(sequence)] = sequence
            start += len(sequence)
        for name, column in columns.items():
            file[name] = _strings(column) if isinstance(column, list) else column
        file.attrs.update(attributes)


def _strings(texts: list[str]) -> Array:
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *(len(text) for text in encoded))))


def read(path: Path, columns: Sequence[str], with_values: bool) -> Content:
    """Read columns, and map the values after checking that the file is as long as it says."""
    with h5py.File(path, "r", locking=False) as file:
        found: dict[str, Column] = {}
        for name in columns:
            column = file[name][:]
            found[name] = [text.decode() for text in column.tolist()] if column.dtype.kind == "S" else column
        attributes = {name: int(value) for name, value in file.attrs.items()}
        dataset = file["values"]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    if not with_values:
        return Content(attributes, found, None)
    if 0 in shape:
        return Content(attributes, found, np.zeros(shape, dtype))
    if offset is None:
        raise ValueError("values must be contiguous and unfiltered")
    needed, size = offset + int(np.prod(shape)) * dtype.itemsize, path.stat().st_size
    if size < needed:
        raise ValueError(f"it must be at least {needed} bytes long, and is {size}")
    # a plain array slices faster than the subclass that np.memmap returns
    return Content(attributes, found, np.asarray(np.memmap(path, dtype, "r", offset, shape)))
