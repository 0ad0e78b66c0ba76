"""One part of a store as an HDF5 file: written once, renamed into place, mapped into memory for reading.

By hand: `f = h5py.File(path); o = f["offsets"][:]; x = f["values"][o[i]:o[i + 1]]`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from features.errors import InputError
from features.store.identity import sync_folder

Array = np.ndarray[Any, np.dtype[Any]]
NUM_INPUTS = {"audio": "num_samples", "text": "num_characters"}


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


def write_part(folder: Path, modality: str, rows: Sequence[Row], generation: int) -> Path:
    """Write rows as one immutable part and return its path; the rename is the commit.

    The name follows from the ids and the generation: the same rows written twice are one file.
    """
    digest = hashlib.sha256("\n".join([str(generation), *(row.utterance_id for row in rows)]).encode())
    path = folder / f"part-{digest.hexdigest()[:8]}.h5"
    temporary = folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with h5py.File(temporary, "w") as file:
            _write(file, modality, rows, generation)
        with temporary.open("rb+") as closed:
            os.fsync(closed.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return path


def _write(file: h5py.File, modality: str, rows: Sequence[Row], generation: int) -> None:
    lengths = [row.values.shape[0] for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = rows[0].values
    values = file.create_dataset("values", (int(offsets[-1]), first.shape[1]), first.dtype)
    for row, start in zip(rows, offsets, strict=False):
        if row.values.shape[0]:
            values[start : start + row.values.shape[0]] = row.values
    file["offsets"] = offsets
    file["utterance_id"] = _strings([row.utterance_id for row in rows])
    file[NUM_INPUTS[modality]] = np.array([row.num_inputs for row in rows], np.int64)
    file["input_sha256"] = _strings([row.input_sha256 for row in rows])
    file["source"] = _strings([row.source for row in rows])
    file["crc32"] = np.array([zlib.crc32(np.ascontiguousarray(row.values).data) for row in rows], np.uint32)
    file.attrs["generation"] = generation


def _strings(texts: list[str]) -> Array:
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *(len(text) for text in encoded))))


def read_part(path: Path) -> Part:
    """Open a part: its index is read, its values are mapped. InputError if the file is not whole."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            dataset, offsets = file["values"], file["offsets"][:]
            shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
            ids = [text.decode() for text in file["utterance_id"][:].tolist()]
            generation = int(file.attrs["generation"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} must be a whole part of a feature store, found: {error}") from error
    if len(offsets) != len(ids) + 1 or offsets[-1] != shape[0] or (np.diff(offsets) < 0).any():
        raise InputError(f"{path}: offsets must describe {shape[0]} rows of {len(ids)} utterances; the part is damaged")
    if shape[0] == 0:
        return Part(path, generation, ids, offsets, np.zeros(shape, dtype))
    needed = offset + shape[0] * shape[1] * dtype.itemsize if offset is not None else None
    found = path.stat().st_size
    if needed is None or found < needed:
        raise InputError(f"{path} must be at least {needed} bytes long, found {found}: the part is cut short")
    values = np.asarray(np.memmap(path, dtype, "r", offset, shape))  # a plain array slices faster than the subclass
    return Part(path, generation, ids, offsets, values)


def read_columns(path: Path, modality: str) -> Columns:
    """Read what a part's rows were made from."""
    with h5py.File(path, "r", locking=False) as file:
        return Columns(
            file[NUM_INPUTS[modality]][:].tolist(),
            [text.decode() for text in file["input_sha256"][:].tolist()],
            [text.decode() for text in file["source"][:].tolist()],
            file["crc32"][:].tolist(),
        )
