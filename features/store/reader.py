"""FeatureStore: read-only mapping from utterance ids to features (T, D), mapped from disk."""

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
from features.store.part import Columns, Part, crc32, num_bytes, part_paths, read_columns, read_part

Result = TypeVar("Result")
SOURCES_FILE = "sources.jsonl"
"""New source records of audio files that were touched or moved without a change of content."""
ATTEMPTS = 10
"""Maximum number of listings if parts are compacted before they can be read."""
VANISHING = "its parts are removed before they can be read; is another process removing the store?"


@dataclass(frozen=True)
class UtteranceInfo:
    """Length of one utterance's features, and the input that they were computed from."""

    length: int
    generation: int
    num_inputs: int
    input_sha256: str
    source: str
    crc32: int


class FeatureStore:
    """The committed utterances of a store.

    If several parts hold one utterance, the highest generation counts. Other processes may compact
    or convert the parts meanwhile: the features are then read from the new parts. Pickling keeps
    only the path, and unpickling opens the store again. No file stays open. InputError names a
    damaged part.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = self.info.identity.dim
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[self.info.identity.store_dtype])
        self._parts: dict[Path, Part] = {}
        self._columns: dict[Path, Columns] = {}
        self._numbered: list[Part] = []
        """The opened parts; `_places` refers to their positions in this list."""
        self._places: dict[str, tuple[int, int]] = {}
        """Part number and index in the part. Python's garbage collector skips tuples that hold only
        integers."""
        self._sources: dict[tuple[str, str], str] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def refresh(self) -> list[str]:
        """Open parts that were added and drop parts that were removed.

        Returns the utterance ids of the added parts.
        """
        known = set(self._parts)
        for _ in range(ATTEMPTS):
            paths = self._list()
            vanished = False
            for path in paths:
                if path not in self._parts and not self._open(path):
                    vanished = True
            removed = self._parts.keys() - set(paths)
            if removed:
                self._forget(removed)
            if not vanished:
                return self._ids_outside(known)
        raise InputError(f"{self.path}: {VANISHING}")

    def _ids_outside(self, known: set[Path]) -> list[str]:
        ids: list[str] = []
        for path, part in self._parts.items():
            if path not in known:
                ids += part.utterance_ids
        return ids

    def _list(self) -> list[Path]:
        try:
            return part_paths(self.path)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} must be a feature store, but it was removed") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be listed now: {error}") from error

    def _open(self, path: Path) -> bool:
        """Open a part; False if it no longer exists."""
        try:
            part = read_part(path)
        except VanishedPartError:
            return False
        check_shape(part, self.dim, self.dtype)
        self._parts[path] = part
        self._add(part)
        return True

    def _add(self, part: Part) -> None:
        number, places, numbered = len(self._numbered), self._places, self._numbered
        numbered.append(part)
        for index, utterance_id in enumerate(part.utterance_ids):
            other = places.get(utterance_id)
            if other is None or _rank(part) >= _rank(numbered[other[0]]):
                places[utterance_id] = (number, index)

    def _locate(self, utterance_id: str) -> tuple[Part, int]:
        """Return the part that holds an utterance, and its index there.

        Raises KeyError if the store lacks it.
        """
        number, index = self._places[utterance_id]
        return self._numbered[number], index

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._parts.pop(path, None)
            self._columns.pop(path, None)
        self._numbered, self._places = [], {}
        self._sources = None
        for part in self._parts.values():
            self._add(part)

    def _read(self, utterance_id: str, read: Callable[[Part, int], Result]) -> Result:
        """Call `read` on an utterance's part and index.

        If the part was removed, calls it on the part that replaced it.
        """
        part, index = self._locate(utterance_id)
        for _ in range(ATTEMPTS):
            try:
                return read(part, index)
            except VanishedPartError:
                self._forget([part.path])
                self.refresh()
            if utterance_id not in self._places:
                raise InputError(
                    f"{self.path} no longer holds {utterance_id!r}: its part was set aside or removed; extract it again"
                )
            part, index = self._locate(utterance_id)
        raise InputError(f"{self.path}: {VANISHING}")

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._places

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the features (T, D) of an utterance, read-only; KeyError if the store lacks it."""
        part, index = self._locate(utterance_id)
        try:
            return _values(part, index)  # the common case, without the closure and loop of _read
        except VanishedPartError:
            return self._read(utterance_id, _values)

    def num_frames(self, utterance_id: str) -> int:
        """Return the number of frames or tokens of an utterance; KeyError if the store lacks it."""
        part, index = self._locate(utterance_id)
        return int(part.offsets[index + 1] - part.offsets[index])

    def generation(self, utterance_id: str) -> int:
        """Return the generation of an utterance's features; KeyError if the store lacks it."""
        return self._locate(utterance_id)[0].generation

    def utterance_info(self, utterance_id: str) -> UtteranceInfo:
        """Return the length and input of an utterance's features.

        Raises KeyError if the store lacks it.
        """
        return self._read(utterance_id, self._utterance_info)

    def _utterance_info(self, part: Part, index: int) -> UtteranceInfo:
        columns = self._columns.get(part.path)
        if columns is None:
            columns = self._columns[part.path] = read_columns(part.path, self.info.modality)
        length, digest = int(part.offsets[index + 1] - part.offsets[index]), columns.input_sha256[index]
        source = self._remembered.get((part.utterance_ids[index], digest), columns.source[index])
        return UtteranceInfo(length, part.generation, columns.num_inputs[index], digest, source, columns.crc32[index])

    def check(self, utterance_id: str) -> Array:
        """Return the features (T, D) of an utterance after comparing their crc32.

        Raises InputError if it differs.
        """
        values = self[utterance_id]
        if crc32(values) != self.utterance_info(utterance_id).crc32:
            part, _ = self._locate(utterance_id)
            raise damaged(part.path, other_crc32(utterance_id))
        return values

    @property
    def _remembered(self) -> Mapping[tuple[str, str], str]:
        """Source by utterance id and input hash, from sources.jsonl."""
        if self._sources is None:
            self._sources = {}
            path = self.path / SOURCES_FILE
            for line in path.read_bytes().split(b"\n") if path.exists() else []:
                # A crash can cut a line short. It is skipped: the audio is then compared once more.
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry["source"], str):
                        self._sources[entry["utterance_id"], entry["input_sha256"]] = entry["source"]
        return self._sources

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Record new sources of utterances with unchanged audio, so that it is not decoded again.

        Does nothing if the store is read-only.
        """
        lines = []
        for utterance_id, source in sources.items():
            entry = {"utterance_id": utterance_id, "input_sha256": self.utterance_info(utterance_id).input_sha256}
            lines.append(json.dumps({**entry, "source": source}) + "\n")
        with suppress(OSError), (self.path / SOURCES_FILE).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: start a new one
                    lines.insert(0, "\n")
            file.write("".join(lines).encode())
        self._sources = None

    @property
    def parts(self) -> list[Part]:
        """The opened parts, sorted by name."""
        return sorted(self._parts.values(), key=lambda part: part.path)

    def part_utterances(self, part: Part) -> list[str]:
        """Return the utterances of a part that no newer or equal part replaces."""
        return [name for index, name in enumerate(part.utterance_ids) if self._locate(name) == (part, index)]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts on disk."""
        for _ in range(ATTEMPTS):
            try:
                return sum(map(num_bytes, self._parts))
            except FileNotFoundError:
                self.refresh()
        raise InputError(f"{self.path}: {VANISHING}")


def check_shape(part: Part, dim: int, dtype: np.dtype[Any]) -> None:
    """Raise DamagedPartError if a part's values do not have the store's width and dtype."""
    width, found = part.mapped.shape[1], part.mapped.dtype
    if (width, found) != (dim, dtype):
        raise damaged(part.path, f"features of {width} x {found}, not of {dim} x {dtype}")


def other_crc32(utterance_id: str) -> str:
    """Return the detail of the error for features that differ from what was written."""
    return f"features of {utterance_id!r} whose crc32 differs from the stored one"


def _values(part: Part, index: int) -> Array:
    values: Array = part.values[part.offsets[index] : part.offsets[index + 1]]
    return values


def _rank(part: Part) -> tuple[int, str]:
    """Return the priority between parts that hold one utterance: generation, then name.

    Writing order has no effect.
    """
    return part.generation, part.path.name
