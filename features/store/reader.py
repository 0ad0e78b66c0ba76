"""Reading a store: `FeatureStore(path)[utterance_id]` is a (T, D) array mapped from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError
from features.store.identity import read_store_info
from features.store.part import (
    Array,
    Columns,
    Part,
    crc32,
    damaged,
    format_of,
    num_bytes,
    part_paths,
    read_columns,
    read_part,
)

SOURCES_FILE = "sources.jsonl"
"""Where the audio of rows was found unchanged later, though its file had been touched or moved."""
ATTEMPTS = 10
"""How often a listing is repeated when a part of it was compacted away before it could be opened."""


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

    Pickles as its path and is opened again in another process; no file stays open. InputError names a damaged part.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = int(self.info.identity["dim"])
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[self.info.identity["store_dtype"]])
        self._parts: list[Part] = []
        self._numbers: dict[Path, int] = {}
        self._columns: dict[int, Columns] = {}
        self._rows: dict[str, tuple[int, int]] = {}
        self._sources: dict[tuple[str, str], str] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def refresh(self) -> list[str]:
        """Open the parts that were committed since; return the ids of their utterances."""
        known = self._numbers.keys()
        added: list[str] = []
        for part in self._open_new(known):
            if part.values.shape[1] != self.dim or part.values.dtype != self.dtype:
                found = f"rows of {part.values.shape[1]} x {part.values.dtype}, not of {self.dim} x {self.dtype}"
                raise damaged(part.path, found)
            number, rows, parts = len(self._parts), self._rows, self._parts
            self._numbers[part.path] = number
            parts.append(part)
            for row, utterance_id in enumerate(part.utterance_ids):
                other = rows.get(utterance_id)
                if other is None or _rank(part) >= _rank(parts[other[0]]):
                    rows[utterance_id] = (number, row)
            added += part.utterance_ids
        return added

    def _open_new(self, known: Set[Path]) -> list[Part]:
        attempt = 0
        while True:
            paths, attempt = [path for path in part_paths(self.path) if path not in known], attempt + 1
            try:
                return [read_part(path) for path in paths]
            except InputError:
                if attempt == ATTEMPTS or all(path.exists() for path in paths):
                    raise

    def _reopen(self) -> None:
        self._parts, self._numbers, self._columns, self._rows, self._sources = [], {}, {}, {}, None
        self.refresh()

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

    def generation(self, utterance_id: str) -> int:
        """Return the generation of an utterance's rows; KeyError if it is not there."""
        return self._parts[self._rows[utterance_id][0]].generation

    def row_info(self, utterance_id: str) -> RowInfo:
        """Return what the rows of an utterance were made from; KeyError if it is not there."""
        number, row = self._rows[utterance_id]
        part = self._parts[number]
        if number not in self._columns:
            try:
                self._columns[number] = read_columns(part.path, self.info.modality)
            except InputError:
                if part.path.exists():
                    raise
                self._reopen()  # it was compacted away: the same rows stand elsewhere
                return self.row_info(utterance_id)
        columns = self._columns[number]
        length, digest = int(part.offsets[row + 1] - part.offsets[row]), columns.input_sha256[row]
        source = self._remembered.get((utterance_id, digest), columns.source[row])
        return RowInfo(length, part.generation, columns.num_inputs[row], digest, source, columns.crc32[row])

    def check(self, utterance_id: str) -> Array:
        """Return the rows of an utterance whose bytes have the crc32 written with them; InputError if they differ."""
        values = self[utterance_id]
        if crc32(values) != self.row_info(utterance_id).crc32:
            path = self._parts[self._rows[utterance_id][0]].path
            raise damaged(path, f"rows of {utterance_id!r} with another crc32 than the one written with them")
        return values

    @property
    def _remembered(self) -> Mapping[tuple[str, str], str]:
        if self._sources is None:
            self._sources = {}
            path = self.path / SOURCES_FILE
            for line in path.read_text("utf-8").splitlines() if path.exists() else []:
                try:
                    entry = json.loads(line)
                    self._sources[entry["utterance_id"], entry["input_sha256"]] = entry["source"]
                except (ValueError, KeyError, TypeError):
                    continue  # cut short by a crash: the audio is compared once more
        return self._sources

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Note where the audio of some rows was found unchanged, so that it need not be decoded again.

        A store that cannot be written to stays as it is.
        """
        lines = []
        for utterance_id, source in sources.items():
            entry = {"utterance_id": utterance_id, "input_sha256": self.row_info(utterance_id).input_sha256}
            lines.append(json.dumps({**entry, "source": source}, ensure_ascii=False) + "\n")
        try:
            with (self.path / SOURCES_FILE).open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError:
            return
        self._sources = None

    @property
    def parts(self) -> list[Path]:
        """The parts that were opened."""
        return [part.path for part in self._parts]

    def part_rows(self, path: Path) -> list[str]:
        """Return the ids of a part whose rows count; those with a newer or equal row elsewhere do not."""
        number = self._numbers[path]
        ids = self._parts[number].utterance_ids
        return [name for row, name in enumerate(ids) if self._rows[name] == (number, row)]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts on disk."""
        return sum(num_bytes(part.path) for part in self._parts)

    def describe(self) -> dict[str, Any]:
        """Return counts, bytes and lengths of the committed rows."""
        lengths = np.array([self[utterance_id].shape[0] for utterance_id in self], np.int64)
        inputs = sum(self.row_info(utterance_id).num_inputs for utterance_id in self)
        written = sum(len(part.utterance_ids) for part in self._parts)
        counts: dict[str, Any] = {
            "utterances": len(self),
            "rows": int(lengths.sum()),
            "bytes": self.num_bytes,
            "parts": len(self._parts),
            "format": sorted({format_of(part.path) for part in self._parts}),
            "superseded": written - len(self),
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


def _rank(part: Part) -> tuple[int, str]:
    """Return what decides between rows of one utterance: the generation, then the name, whatever came first."""
    return part.generation, part.path.name
