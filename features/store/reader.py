"""Reading a store: `FeatureStore(path)[utterance_id]` is a (T, D) array mapped from disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError
from features.store.hdf5 import Array, Columns, Part, read_columns, read_part
from features.store.identity import read_store_info


@dataclass(frozen=True)
class RowInfo:
    """What one row was made from."""

    length: int
    generation: int
    num_inputs: int
    input_sha256: str
    source: str
    crc32: int


class FeatureStore:
    """The committed rows of a store; of several rows of one utterance the highest generation counts.

    Pickles as its path and is opened again in another process.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = int(self.info.identity["dim"])
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[self.info.identity["store_dtype"]])
        self._parts: list[Part] = [read_part(path) for path in sorted(self.path.glob("part-*.h5"))]
        self._columns: dict[int, Columns] = {}
        self._rows: dict[str, tuple[int, int]] = {}
        for number, part in enumerate(self._parts):
            if part.values.shape[1] != self.dim or part.values.dtype != self.dtype:
                found = f"{part.values.shape[1]} x {part.values.dtype}"
                raise InputError(f"{part.path}: rows must be {self.dim} x {self.dtype}, found {found}: a foreign part")
            for row, utterance_id in enumerate(part.utterance_ids):
                known = self._rows.get(utterance_id)
                if known is None or part.generation >= self._parts[known[0]].generation:
                    self._rows[utterance_id] = (number, row)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the (T, D) rows of an utterance, read-only; KeyError if it is not there."""
        number, row = self._rows[utterance_id]
        part = self._parts[number]
        values: Array = part.values[part.offsets[row] : part.offsets[row + 1]]
        return values

    def row_info(self, utterance_id: str) -> RowInfo:
        """Return what the rows of an utterance were made from; KeyError if it is not there."""
        number, row = self._rows[utterance_id]
        part = self._parts[number]
        if number not in self._columns:
            self._columns[number] = read_columns(part.path, self.info.modality)
        columns = self._columns[number]
        length = int(part.offsets[row + 1] - part.offsets[row])
        made_from = columns.num_inputs[row], columns.input_sha256[row], columns.source[row], columns.crc32[row]
        return RowInfo(length, part.generation, *made_from)

    def check(self, utterance_id: str) -> None:
        """Compare the bytes of an utterance with the crc32 written beside them; InputError if they differ."""
        if zlib.crc32(np.ascontiguousarray(self[utterance_id]).data) != self.row_info(utterance_id).crc32:
            path = self._parts[self._rows[utterance_id][0]].path
            raise InputError(f"{path}: the rows of {utterance_id!r} must have the crc32 written with them; damaged")

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts on disk."""
        return sum(part.path.stat().st_size for part in self._parts)

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def describe(self) -> dict[str, Any]:
        """Return counts, bytes and lengths of the committed rows."""
        lengths = np.array([self[utterance_id].shape[0] for utterance_id in self], np.int64)
        inputs = sum(self.row_info(utterance_id).num_inputs for utterance_id in self)
        counts: dict[str, Any] = {
            "utterances": len(self),
            "rows": int(lengths.sum()),
            "bytes": self.num_bytes,
            "parts": self.num_parts,
        }
        if lengths.size:
            counts["lengths"] = {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "max": int(lengths.max()),
                "empty": int((lengths == 0).sum()),
            }
        if self.info.modality == "audio":
            counts["hours"] = inputs / self.info.identity["sample_rate"] / 3600
            counts["gb_per_hour"] = self.num_bytes / 1e9 / counts["hours"] if inputs else None
        return counts
