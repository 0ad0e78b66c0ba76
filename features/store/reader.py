"""FeatureStore: read-only mapping from utterance ids to features (T, D), mapped from disk."""

from __future__ import annotations

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
from features.store.part import DTYPES, Columns, Part, crc32, num_bytes, part_paths, read_columns, read_part
from features.store.sources import SourceKey, append_sources, read_sources

Result = TypeVar("Result")
ATTEMPTS = 10
"""Maximum number of listings if parts are compacted before they can be read."""
VANISHING = "its parts are removed before they can be read; is another process removing the store?"


@dataclass(frozen=True)
class UtteranceInfo:
    """Length of one utterance's features, and the input that they were computed from.

    The fields are described at `StoredUtterance` and `Part`.
    """

    length: int
    """Number of frames or tokens."""
    generation: int
    num_inputs: int
    input_sha256: str
    source: str
    crc32: int


class FeatureStore:
    """The committed utterances of a store.

    If several parts hold one utterance, the highest generation counts. Other processes may compact
    or convert the parts meanwhile: the features are then read from the new parts. Pickling keeps
    only the path, and unpickling opens the store again. No file stays open. Methods that read raise
    InputError, which names the part, if a part is damaged or cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = self.info.identity.dim
        self.dtype = DTYPES[self.info.identity.store_dtype]
        self._parts: dict[Path, Part] = {}
        self._columns: dict[Path, Columns] = {}
        self._numbered: list[Part] = []
        """The opened parts; `_places` refers to their positions in this list."""
        self._places: dict[str, tuple[int, int]] = {}
        """Part number and index in the part, by utterance id. Python's garbage collector skips
        tuples that hold only integers."""
        self._sources: dict[SourceKey, str] | None = None
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
        """Return the utterance ids of the parts that are not in `known`."""
        ids: list[str] = []
        for path, part in self._parts.items():
            if path not in known:
                ids += part.utterance_ids
        return ids

    def _list(self) -> list[Path]:
        """Return the committed parts; raises InputError if they cannot be listed."""
        try:
            return part_paths(self.path)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} must be a feature store, but it was removed") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be listed now: {error}") from error

    def _open(self, path: Path) -> bool:
        """Open a part; return False if it no longer exists."""
        try:
            part = read_part(path)
        except VanishedPartError:
            return False
        check_shape(part, self.dim, self.dtype)
        self._parts[path] = part
        self._add(part)
        return True

    def _add(self, part: Part) -> None:
        """Add the utterances of a part that no opened part of a higher rank holds."""
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
        """Close parts; other parts may hold their utterances."""
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
        """Return the features (T, D) of an utterance, read-only, in the store's dtype.

        Raises KeyError if the store lacks it.
        """
        part, index = self._locate(utterance_id)
        try:
            return _values(part, index)  # the common case, without the closure and loop of _read
        except VanishedPartError:
            return self._read(utterance_id, _values)

    def num_frames(self, utterance_id: str) -> int:
        """Return the number of frames or tokens of an utterance.

        Raises KeyError if the store lacks it.
        """
        part, index = self._locate(utterance_id)
        return part.num_frames(index)

    def generation(self, utterance_id: str) -> int:
        """Return the generation of an utterance's features; raises KeyError if they are missing."""
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
        digest = columns.input_sha256[index]
        source = self._remembered.get((part.utterance_ids[index], digest), columns.source[index])
        return UtteranceInfo(
            length=part.num_frames(index),
            generation=part.generation,
            num_inputs=columns.num_inputs[index],
            input_sha256=digest,
            source=source,
            crc32=columns.crc32[index],
        )

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
    def _remembered(self) -> Mapping[SourceKey, str]:
        """Source by utterance id and input hash, from sources.jsonl."""
        if self._sources is None:
            self._sources = read_sources(self.path)
        return self._sources

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Record new sources of utterances with unchanged audio, so that it is not decoded again.

        Does nothing if the store is read-only.
        """
        by_input: dict[SourceKey, str] = {}
        for utterance_id, source in sources.items():
            by_input[utterance_id, self.utterance_info(utterance_id).input_sha256] = source
        with suppress(OSError):
            append_sources(self.path, by_input)
        self._sources = None

    @property
    def parts(self) -> list[Part]:
        """The opened parts, sorted by name."""
        return sorted(self._parts.values(), key=lambda part: part.path)

    def part_utterances(self, part: Part) -> list[str]:
        """Return the utterances of a part that no newer or equal part replaces."""
        found = []
        for index, name in enumerate(part.utterance_ids):
            if self._locate(name) == (part, index):
                found.append(name)
        return found

    @property
    def num_bytes(self) -> int:
        """Size of all parts on disk, in bytes."""
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
    """Return the detail of the error if features differ from the written ones."""
    return f"features of {utterance_id!r} whose crc32 differs from the stored one"


def _values(part: Part, index: int) -> Array:
    values: Array = part.values[part.offsets[index] : part.offsets[index + 1]]
    return values


def _rank(part: Part) -> tuple[int, str]:
    """Return the rank of a part: of parts that hold one utterance, the highest counts.

    The rank is the generation, then the name, so that the order of writing has no effect.
    """
    return part.generation, part.path.name
