"""OpenParts: the parts of a store, kept up to date while other processes add, compact or convert them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from features.errors import InputError
from features.store.faults import VanishedPartError, damaged
from features.store.identity import StoreInfo
from features.store.mapped import Array
from features.store.part import DTYPES, Columns, Part, read_columns, read_part
from features.store.part_files import file_names, is_part_name
from features.store.place_table import INDEX, INDEX_BITS, PlaceTable
from features.store.sources import SourceKey, append_sources, read_sources

Result = TypeVar("Result")
ATTEMPTS = 10
"""Maximum number of listings if parts are compacted before they can be read."""
VANISHING = "its parts are removed before they can be read; is another process removing the store?"


class OpenParts:
    """The parts of a store, and the places of their utterances.

    A read of a part that another process has removed is repeated on the part that replaced it. Threads may share the
    object: one of them at a time updates it, and adds parts before it drops those that they replace.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path, self.info = path, info
        self.table = PlaceTable()
        self._columns: dict[str, Columns] = {}
        """The columns that are kept, by the file name of the part."""
        self._sources: dict[SourceKey, str] | None = None
        self._lock = threading.RLock()
        self.update()

    def update(self) -> None:
        """Open parts that were added and drop parts that were removed."""
        with self._lock:
            self._update()

    def _update(self) -> None:
        for _ in range(ATTEMPTS):
            names, known = self._list(), self.table.numbers
            unknown = names.difference(known)
            # many parts are listed often: known names are compared only if one is missing
            removed = known.keys() - names if len(names) - len(unknown) < len(known) else ()
            added = sorted(filter(is_part_name, unknown))
            opened = [part for part in map(self._open, added) if part is not None]
            self.table.add(opened)
            if removed:
                self._forget(removed)
            if len(opened) == len(added):
                return
        raise InputError(f"{self.path}: {VANISHING}")

    def _list(self) -> set[str]:
        """Return the names of the store's files; raises InputError if they cannot be listed."""
        try:
            return file_names(self.path)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} must be a feature store, but it was removed") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be listed now: {error}") from error

    def _open(self, name: str) -> Part | None:
        """Open a part; return None if it no longer exists."""
        try:
            part = read_part(self.path / name)
        except VanishedPartError:
            return None
        check_shape(part, self.info.identity.dim, DTYPES[self.info.identity.store_dtype])
        return part

    def _forget(self, names: Iterable[str]) -> None:
        """Close parts; other parts may hold their utterances."""
        for name in names:
            self._columns.pop(name, None)
        self.table.remove(names)
        self._sources = None

    def place(self, utterance_id: str) -> int:
        """Return the place of an utterance; raises KeyError if the store lacks it."""
        place = self.table.find(utterance_id)
        if place is None:
            raise KeyError(utterance_id)
        return place

    def places(self, utterance_ids: Sequence[str]) -> Array:
        """Return the places (N,) int64 of utterances; raises KeyError if the store lacks one."""
        found = self.table.find_all(utterance_ids)
        for position in np.flatnonzero(found < 0)[:1].tolist():
            raise KeyError(utterance_ids[position])
        return found

    def first_frames(self, places: Array) -> Array:
        """Return the index (N,) int64 of the first frame of the utterances at places (N,) among those of their part.

        0 if the part was removed.
        """
        first = np.zeros(len(places), np.int64)
        for group in _groups(places, np.arange(len(places))):
            part = self.table.part_of(int(places[group[0]]))
            if part is not None:
                first[group] = part.offsets[places[group] & INDEX]
        return first

    def moved(self, place: int) -> int:
        """Return the place of an utterance whose part was removed, in another part."""
        utterance_id = self.table.id_of(place)
        found = self.table.find(utterance_id)
        if found is None:
            with self._lock:  # another thread may have dropped the part, and be about to open the one that replaced it
                found = self.table.find(utterance_id)
        if found is None:
            raise InputError(
                f"{self.path} no longer holds {utterance_id!r}: its part was set aside or removed; extract it again"
            )
        return found

    def read(self, place: int, read: Callable[[Part, int], Result]) -> Result:
        """Call `read` on the part of a place and the index in it.

        If the part was removed, calls it on the part that replaced it.
        """
        for _ in range(ATTEMPTS):
            part = self.table.part_of(place)
            if part is not None:
                try:
                    return read(part, place & INDEX)
                except VanishedPartError:
                    self._replace(part)
            place = self.moved(place)
        raise InputError(f"{self.path}: {VANISHING}")

    def _replace(self, part: Part) -> None:
        """Open the parts that replaced one that has vanished, then drop it."""
        with self._lock:
            if part.path.name in self.table.numbers:  # unless another thread did
                self.update()
            if part.path.name in self.table.numbers:  # another file has its name, or it is listed but gone
                self._forget([part.path.name])
                self.update()

    def by_part(self, places: Array) -> Iterator[tuple[Array, Part, Columns]]:
        """Yield each part of some places (N,), with its columns and the positions of its places.

        If a part was removed, its places are replaced in `places`.
        """
        positions = np.arange(len(places))
        for _ in range(ATTEMPTS):
            vanished = []
            for group in _groups(places, positions):
                part = self.table.part_of(int(places[group[0]]))
                columns = self._read_columns(part) if part is not None else None
                if part is None or columns is None:
                    vanished.append(group)
                else:
                    yield group, part, columns
            if not vanished:
                return
            self.update()
            positions = np.concatenate(vanished)
            places[positions] = list(map(self.moved, places[positions].tolist()))
        raise InputError(f"{self.path}: {VANISHING}")

    def _read_columns(self, part: Part) -> Columns | None:
        """Return the columns of a part; None if it no longer exists."""
        try:
            return self._columns.get(part.path.name) or read_columns(part.path, self.info.modality)
        except VanishedPartError:
            return None

    @property
    def sources(self) -> Mapping[SourceKey, str]:
        """Newer sources by utterance id and input hash, from sources.jsonl."""
        if self._sources is None:
            self._sources = read_sources(self.path)
        return self._sources

    def append_sources(self, sources: Mapping[SourceKey, str]) -> None:
        """Add sources to sources.jsonl; do nothing if the store is read-only."""
        with suppress(OSError):
            append_sources(self.path, sources)
        self._sources = None

    def columns(self, part: Part) -> Columns:
        """Return the columns of a part, and keep them."""
        found = self._columns.get(part.path.name)
        if found is None:
            found = self._columns[part.path.name] = read_columns(part.path, self.info.modality)
        return found


def check_shape(part: Part, dim: int, dtype: np.dtype[Any]) -> None:
    """Raise DamagedPartError if a part's values do not have the store's width and dtype."""
    width, found = part.mapped.shape[1], part.mapped.dtype
    if (width, found) != (dim, dtype):
        raise damaged(part.path, f"features of {width} x {found}, not of {dim} x {dtype}")


def _groups(places: Array, positions: Array) -> list[Array]:
    """Divide positions in `places` by the part of their place."""
    if not len(positions):
        return []
    numbers = places[positions] >> INDEX_BITS
    order = np.argsort(numbers, kind="stable")
    return np.split(positions[order], np.flatnonzero(np.diff(numbers[order])) + 1)
