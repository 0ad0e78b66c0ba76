"""Reading a store: `FeatureStore(path)[utterance_id]` is a (T, D) array mapped from disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from features.errors import InputError
from features.store.faults import VanishedPartError, damaged
from features.store.identity import read_store_info
from features.store.mapped import Array
from features.store.part import Columns, Part, crc32, format_of, num_bytes, part_paths, read_columns, read_part

Result = TypeVar("Result")
SOURCES_FILE = "sources.jsonl"
"""Where the audio of rows was found unchanged later, though its file had been touched or moved."""
ATTEMPTS = 10
"""How often the store is listed again when a part was compacted away before it could be read."""
VANISHING = "its parts vanish before they can be read; is the store being removed?"


@dataclass(frozen=True)
class UtteranceInfo:
    """What one row was made from."""

    length: int
    generation: int
    num_inputs: int
    input_sha256: str
    source: str
    crc32: int


class FeatureStore:
    """The committed rows of a store; of several rows of one utterance the highest generation counts.

    Parts may be compacted or converted meanwhile: the same rows are then read from the new parts. Pickles as its path
    and is opened again in another process; no file stays open. InputError names a damaged part.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = int(self.info.identity["dim"])
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[self.info.identity["store_dtype"]])
        self._parts: dict[Path, Part] = {}
        self._columns: dict[Path, Columns] = {}
        self._order: list[Part] = []
        """The opened parts, by the numbers that `_rows` holds."""
        self._rows: dict[str, tuple[int, int]] = {}
        """Part and place; numbers alone, for Python's garbage collector passes over tuples of nothing else."""
        self._sources: dict[tuple[str, str], str] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def refresh(self) -> list[str]:
        """Open the parts that were committed since, and forget those that are gone; return the ids of the new ones."""
        known = set(self._parts)
        for _ in range(ATTEMPTS):
            paths = self._list()
            new = [path for path in paths if path not in self._parts]
            vanished = [path for path in new if not self._open(path)]
            gone = self._parts.keys() - set(paths)
            if gone:
                self._forget(gone)
            if not vanished:
                new = [path for path in self._parts if path not in known]
                return [name for path in new for name in self._parts[path].utterance_ids]
        raise InputError(f"{self.path}: {VANISHING}")

    def _list(self) -> list[Path]:
        try:
            return part_paths(self.path)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} must be a feature store, but it was removed") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be listed now: {error}") from error

    def _open(self, path: Path) -> bool:
        """Open a part; False if it has gone."""
        try:
            part = read_part(path)
        except VanishedPartError:
            return False
        if (part.mapped.shape[1], part.mapped.dtype) != (self.dim, self.dtype):
            found = f"rows of {part.mapped.shape[1]} x {part.mapped.dtype}, not of {self.dim} x {self.dtype}"
            raise damaged(path, found)
        self._parts[path] = part
        self._add(part)
        return True

    def _add(self, part: Part) -> None:
        number, rows, order = len(self._order), self._rows, self._order
        order.append(part)
        for row, utterance_id in enumerate(part.utterance_ids):
            other = rows.get(utterance_id)
            if other is None or _rank(part) >= _rank(order[other[0]]):
                rows[utterance_id] = (number, row)

    def _locate(self, utterance_id: str) -> tuple[Part, int]:
        """Return the part that holds an utterance, and its place in it; KeyError if the store lacks it."""
        number, row = self._rows[utterance_id]
        return self._order[number], row

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._parts.pop(path, None)
            self._columns.pop(path, None)
        self._order, self._rows = [], {}
        self._sources = None
        for part in self._parts.values():
            self._add(part)

    def _read(self, utterance_id: str, read: Callable[[Part, int], Result]) -> Result:
        """Read something of an utterance; where its part has gone, from the part that took in its rows."""
        part, row = self._locate(utterance_id)
        for _ in range(ATTEMPTS):
            try:
                return read(part, row)
            except VanishedPartError:
                self._forget([part.path])
                self.refresh()
            if utterance_id not in self._rows:
                raise InputError(
                    f"{self.path} has lost {utterance_id!r}: its part was set aside or removed; extract it again"
                )
            part, row = self._locate(utterance_id)
        raise InputError(f"{self.path}: {VANISHING}")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the (T, D) rows of an utterance, read-only; KeyError if it is not there."""
        part, row = self._locate(utterance_id)
        try:
            return _values(part, row)
        except VanishedPartError:
            return self._read(utterance_id, _values)

    def num_frames(self, utterance_id: str) -> int:
        """Return the number of frames or tokens of an utterance; KeyError if it is not there."""
        part, row = self._locate(utterance_id)
        return int(part.offsets[row + 1] - part.offsets[row])

    def generation(self, utterance_id: str) -> int:
        """Return the generation of an utterance's rows; KeyError if it is not there."""
        return self._locate(utterance_id)[0].generation

    def utterance_info(self, utterance_id: str) -> UtteranceInfo:
        """Return what the rows of an utterance were made from; KeyError if it is not there."""
        return self._read(utterance_id, self._utterance_info)

    def _utterance_info(self, part: Part, row: int) -> UtteranceInfo:
        columns = self._columns.get(part.path)
        if columns is None:
            columns = self._columns[part.path] = read_columns(part.path, self.info.modality)
        length, digest = int(part.offsets[row + 1] - part.offsets[row]), columns.input_sha256[row]
        source = self._remembered.get((part.utterance_ids[row], digest), columns.source[row])
        return UtteranceInfo(length, part.generation, columns.num_inputs[row], digest, source, columns.crc32[row])

    def check(self, utterance_id: str) -> Array:
        """Return the rows of an utterance whose bytes have the crc32 written with them; InputError if they differ."""
        values = self[utterance_id]
        if crc32(values) != self.utterance_info(utterance_id).crc32:
            raise damaged(
                self._locate(utterance_id)[0].path,
                f"rows of {utterance_id!r} with another crc32 than the one written with them",
            )
        return values

    @property
    def _remembered(self) -> Mapping[tuple[str, str], str]:
        if self._sources is None:
            self._sources = {}
            path = self.path / SOURCES_FILE
            for line in path.read_bytes().split(b"\n") if path.exists() else []:
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    # a line cut short by a crash counts for nothing: that audio is compared once more
                    entry = json.loads(line)
                    if isinstance(entry["source"], str):
                        self._sources[entry["utterance_id"], entry["input_sha256"]] = entry["source"]
        return self._sources

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Note where the audio of some rows was found unchanged, so that it need not be decoded again.

        A store that cannot be written to stays as it is.
        """
        lines = []
        for utterance_id, source in sources.items():
            entry = {"utterance_id": utterance_id, "input_sha256": self.utterance_info(utterance_id).input_sha256}
            lines.append(json.dumps({**entry, "source": source}) + "\n")
        with suppress(OSError), (self.path / SOURCES_FILE).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # cut short by a crash: what is added now must not be joined to it
                    lines.insert(0, "\n")
            file.write("".join(lines).encode())
        self._sources = None

    @property
    def parts(self) -> list[Part]:
        """The parts that were opened, in order of their names."""
        return sorted(self._parts.values(), key=lambda part: part.path)

    def part_utterances(self, part: Part) -> list[str]:
        """Return the ids of a part whose rows count; those with a newer or equal row elsewhere do not."""
        return [name for row, name in enumerate(part.utterance_ids) if self._locate(name) == (part, row)]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts on disk."""
        for _ in range(ATTEMPTS):
            try:
                return sum(num_bytes(path) for path in self._parts)
            except FileNotFoundError:
                self.refresh()
        raise InputError(f"{self.path}: {VANISHING}")

    def describe(self) -> dict[str, Any]:
        """Return counts, bytes and lengths of the committed rows."""
        lengths = np.array([self.num_frames(utterance_id) for utterance_id in self], np.int64)
        inputs = sum(self.utterance_info(utterance_id).num_inputs for utterance_id in self)
        written = sum(len(part.utterance_ids) for part in self._parts.values())
        counts: dict[str, Any] = {
            "utterances": len(self),
            "rows": int(lengths.sum()),
            "bytes": self.num_bytes,
            "parts": len(self._parts),
            "format": sorted({format_of(path) for path in self._parts}),
            "superseded": written - len(self),
            "made_with": origins(self._parts.values()),
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


def origins(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the versions and devices that computed parts, with the number of parts and utterances of each."""
    counts: dict[str, list[int]] = {}
    for part in parts:
        try:
            made_with = json.dumps(part.made_with, sort_keys=True)
        except VanishedPartError:
            continue
        count = counts.setdefault(made_with, [0, 0])
        count[0] += 1
        count[1] += len(part.utterance_ids)
    return [{**json.loads(kind), "parts": n, "utterances": rows} for kind, (n, rows) in sorted(counts.items())]


def _values(part: Part, row: int) -> Array:
    values: Array = part.values[part.offsets[row] : part.offsets[row + 1]]
    return values


def _rank(part: Part) -> tuple[int, str]:
    """Return what decides between rows of one utterance: the generation, then the name, whatever came first."""
    return part.generation, part.path.name
