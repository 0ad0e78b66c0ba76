"""FeatureStore: read-only mapping from utterance ids to features (T, D), mapped from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from features.errors import InputError
from features.store.faults import VanishedPartError, damaged
from features.store.identity import read_store_info
from features.store.mapped import Array, unmarked
from features.store.open_parts import ATTEMPTS, VANISHING, OpenParts
from features.store.part import DTYPES, Part, StoredUtterance, crc32
from features.store.part_files import num_bytes
from features.store.place_table import INDEX, INDEX_BITS
from features.store.sources import SourceKey
from features.store.stored_inputs import StoredInputs
from features.store.stored_inputs import UtteranceInfo as UtteranceInfo


class FeatureStore:
    """The committed utterances of a store.

    If several parts hold one utterance, the highest generation counts. Other processes may compact
    or convert the parts meanwhile: the features are then read from the new parts. Pickling keeps
    only the path, and unpickling opens the store again. No file stays open. Methods that read raise
    InputError, which names the part, if a part is damaged or cannot be read.

    A place is a number that stands for a stored utterance, see `PlaceTable`. Reading by place needs
    no search, and reading many utterances at once reads the columns of each part once.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_store_info(self.path)
        self.dim = self.info.identity.dim
        self.dtype = DTYPES[self.info.identity.store_dtype]
        self._opened = OpenParts(self.path, self.info)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.path,)

    def refresh(self) -> list[str]:
        """Open parts that were added and drop parts that were removed.

        Returns the utterance ids of the added parts.
        """
        first = len(self._opened.table.parts)
        self._opened.update()
        ids: list[str] = []
        for part in self._opened.table.parts[first:]:
            ids += part.utterance_ids if part is not None else ()
        return ids

    def __len__(self) -> int:
        return len(self._opened.table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened.table)

    def __contains__(self, utterance_id: object) -> bool:
        return isinstance(utterance_id, str) and self._opened.table.find(utterance_id) is not None

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the features (T, D) of an utterance, read-only, in the store's dtype.

        Raises KeyError if the store lacks it.
        """
        return self.values(self._opened.place(utterance_id))

    def values(self, place: int) -> Array:
        """Return the features (T, D) at a place, read-only, in the store's dtype."""
        part = self._opened.table.part_of(place)
        if part is None:
            return self._opened.read(place, _values)
        try:
            return _values(part, place & INDEX)  # the common case, without the loop of `read`
        except VanishedPartError:
            return self._opened.read(place, _values)

    def first_frames(self, places: Array) -> Array:
        """Return the index (N,) int64 of the first frame of the utterances at places (N,) among those of their part."""
        return self._opened.first_frames(places)

    def values_of(self, places: Array, first: Array, lengths: Array) -> list[Array]:
        """Return what `values` returns for each of some places (N,), faster than one by one.

        `first` (N,) are their `first_frames`, and `lengths` (N,) their numbers of frames. The arrays are not marked
        as read-only, because torch warns of those that are; nothing must be written to them.
        """
        parts, found = dict[int, Array | None](), []
        columns = (places.tolist(), (places >> INDEX_BITS).tolist(), first.tolist(), (first + lengths).tolist())
        for place, number, start, end in zip(*columns, strict=True):
            if number not in parts:
                parts[number] = self._values_of_part(number)
            values = parts[number]
            found.append(unmarked(self.values(place)) if values is None else values[start:end])
        return found

    def _values_of_part(self, number: int) -> Array | None:
        """Return the values (sum T, D) of a part; None if it was removed."""
        part = self._opened.table.parts[number]
        try:
            return None if part is None else part.unmarked_values
        except VanishedPartError:
            return None

    def has(self, utterance_ids: Sequence[str]) -> Array:
        """Return a mask (N,) of the utterances that the store has."""
        found: Array = self._opened.table.find_all(utterance_ids) >= 0
        return found

    def places(self, utterance_ids: Iterable[str] | None = None) -> Array:
        """Return the places (N,) int64 of utterances; by default of all, sorted.

        Raises KeyError if the store lacks one.
        """
        if utterance_ids is None:
            return self._opened.table.places()
        return self._opened.places(list(utterance_ids))

    def id_of(self, place: int) -> str:
        """Return the id of the utterance at a place."""
        return self._opened.table.id_of(place)

    def num_frames(self, utterance_id: str) -> int:
        """Return the number of frames or tokens of an utterance.

        Raises KeyError if the store lacks it.
        """
        return self._opened.read(self._opened.place(utterance_id), Part.num_frames)

    def generation(self, utterance_id: str) -> int:
        """Return the generation of an utterance's features; raises KeyError if they are missing."""
        return self._opened.read(self._opened.place(utterance_id), lambda part, _: part.generation)

    def utterance_info(self, utterance_id: str) -> UtteranceInfo:
        """Return the length and input of an utterance's features.

        Raises KeyError if the store lacks it. The columns of the part stay in memory, about 300
        bytes per utterance of the part: `inputs` and `utterance_infos` need no memory for them.
        """
        return self._opened.read(self._opened.place(utterance_id), self._utterance_info)

    def _utterance_info(self, part: Part, index: int) -> UtteranceInfo:
        return UtteranceInfo.of_part(part, self._opened.columns(part), index, self._opened.sources)

    def utterance_infos(self, places: Array) -> Iterator[tuple[int, UtteranceInfo]]:
        """Yield the position and the info of utterances at places (N,), part by part."""
        places = places.copy()
        for group, part, columns in self._opened.by_part(places):
            for position, place in zip(group.tolist(), places[group].tolist(), strict=True):
                yield position, UtteranceInfo.of_part(part, columns, place & INDEX, self._opened.sources)

    def inputs(self, places: Array) -> StoredInputs:
        """Return the lengths and inputs of utterances at places (N,), in columns."""
        places = places.copy()  # `by_part` replaces places whose part was removed
        return StoredInputs.read(places, self._opened.by_part(places))

    def stored_utterances(self, places: Array) -> Iterator[StoredUtterance]:
        """Yield utterances at places (N,), part by part, after comparing their crc32."""
        for position, info in self.utterance_infos(places):
            place = int(places[position])
            values = self.checked(place, info.crc32)
            yield StoredUtterance(self.id_of(place), values, info.num_inputs, info.input_sha256, info.source)

    def check(self, utterance_id: str) -> Array:
        """Return the features (T, D) of an utterance after comparing their crc32.

        Raises InputError if it differs.
        """
        values = self[utterance_id]
        if crc32(values) != self.utterance_info(utterance_id).crc32:
            part = self._opened.table.part_of(self._opened.place(utterance_id))
            raise damaged(self.path if part is None else part.path, other_crc32(utterance_id))
        return values

    def checked(self, place: int, expected: int) -> Array:
        """Return the features (T, D) at a place if their crc32 is `expected`, or else `check` them.

        The crc32 differs without damage if other features have replaced the part meanwhile.
        """
        values = self.values(place)
        return values if crc32(values) == expected else self.check(self.id_of(place))

    def remember_sources(self, sources: Mapping[str, str]) -> None:
        """Record new sources of utterances with unchanged audio, so that it is not decoded again.

        Does nothing if the store is read-only.
        """
        by_input: dict[SourceKey, str] = {}
        names = list(sources)
        for position, info in self.utterance_infos(self.places(names)):
            by_input[names[position], info.input_sha256] = sources[names[position]]
        self._opened.append_sources(by_input)

    @property
    def parts(self) -> list[Part]:
        """The opened parts, sorted by name."""
        opened = [part for part in self._opened.table.parts if part is not None]
        return sorted(opened, key=lambda part: part.path)

    def places_by_part(self) -> dict[Path, Array]:
        """Return, by the path of a part, the places of its utterances that no other part replaces."""
        places = self.places()
        ends = np.searchsorted(places, np.arange(len(self._opened.table.parts) + 1) << INDEX_BITS)
        found = {}
        for number, part in enumerate(self._opened.table.parts):
            if part is not None:
                found[part.path] = places[ends[number] : ends[number + 1]]
        return found

    @property
    def num_bytes(self) -> int:
        """Size of all parts on disk, in bytes."""
        for _ in range(ATTEMPTS):
            try:
                return sum(num_bytes(self.path / name) for name in self._opened.table.numbers)
            except FileNotFoundError:
                self._opened.update()
        raise InputError(f"{self.path}: {VANISHING}")


def other_crc32(utterance_id: str) -> str:
    """Return the detail of the error if features differ from the written ones."""
    return f"features of {utterance_id!r} whose crc32 differs from the stored one"


def _values(part: Part, index: int) -> Array:
    values: Array = part.values[part.offsets[index] : part.offsets[index + 1]]
    return values
