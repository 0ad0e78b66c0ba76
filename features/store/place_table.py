"""PlaceTable: finds utterances by id in the parts of a store, without a Python object per utterance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from features.hash_index import HashIndex, hashes_of
from features.store.mapped import Array
from features.store.part import Part
from features.texts import Texts

INDEX_BITS = 32
"""A place is the number of a part, times 2 ** INDEX_BITS, plus the index in the part."""
INDEX = (1 << INDEX_BITS) - 1
RECENT = 4096
"""Number of utterances, at least, that are added to a dictionary until they go into the index."""


class PlaceTable:
    """Places of utterances by id, with 13 bytes per utterance.

    They are in a `HashIndex`. Utterances that are added later are in a dictionary, until there are
    a quarter as many as in the index.

    If several parts hold one utterance, the highest generation counts, then the name of the part,
    so that the order of writing has no effect. A place never changes; of a removed part, it still
    tells the id.
    """

    def __init__(self) -> None:
        self.parts: list[Part | None] = []
        """The parts by number; None if a part was removed."""
        self.numbers: dict[str, int] = {}
        """The number of each part by its file name, without removed parts."""
        self._ids: list[Texts] = []
        """The ids by number of the part, also of removed parts."""
        self.id_of = _id_reader(self._ids)
        """Function from a place to the id of its utterance."""
        self._recent: dict[str, int] = {}
        self._count = 0
        self._index = self._empty = HashIndex.sort(np.zeros(0, np.uint32), np.zeros(0, np.int64), self.id_of)

    def add(self, parts: Sequence[Part]) -> None:
        """Add parts."""
        added = range(len(self.parts), len(self.parts) + len(parts))
        for number, part in zip(added, parts, strict=True):
            self.parts.append(part)
            self.numbers[part.path.name] = number
            self._ids.append(part.utterance_ids)
        if len(self._recent) + sum(map(len, parts)) > max(RECENT, len(self._index) // 4):
            self._set(self._index, self._recent, added)
            return
        for number, part in zip(added, parts, strict=True):
            ids = list(part.utterance_ids)
            known = self._index.find(ids)
            for utterance_id, place, found in zip(ids, _places(number, part).tolist(), known.tolist(), strict=True):
                other = self._recent.get(utterance_id, found)
                if other < 0 or self._rank(place) >= self._rank(other):
                    self._recent[utterance_id] = place
                if other < 0:
                    self._count += 1

    def remove(self, names: Iterable[str]) -> None:
        """Remove parts; other parts may hold their utterances."""
        gone = [self.numbers.pop(name, None) for name in names]
        self._set(self._empty, {}, list(self.numbers.values()))
        for number in gone:
            if number is not None:  # unless another thread has removed it
                self.parts[number] = None

    def _set(self, index: HashIndex, recent: Mapping[str, int], added: Sequence[int]) -> None:
        """Set the table: an index, and more utterances, of a dictionary and of parts by number."""
        hashes, places = [hashes_of(recent)], [np.fromiter(recent.values(), np.int64)]
        for number in added:
            part = self.parts[number]
            if part is not None:
                hashes.append(part.hashes)
                places.append(_places(number, part))
        index = index.with_others(np.concatenate(hashes), np.concatenate(places))
        is_current = self._is_current(index)
        # one assignment, because other threads may be searching
        self._index = index if is_current.all() else index.select(is_current)
        self._recent, self._count = {}, len(self._index)

    def _is_current(self, index: HashIndex) -> Array:
        """Return a mask (N,) of the utterances that no other part replaces."""
        current = np.ones(len(index), bool)
        # equal ids have equal hashes; different ids may have them too
        several = np.flatnonzero(index.repeated())
        best: dict[str, int] = {}
        for place in index.numbers[several].tolist():
            utterance_id = self.id_of(place)
            other = best.get(utterance_id)
            if other is None or self._rank(place) >= self._rank(other):
                best[utterance_id] = place
        current[several] = np.isin(index.numbers[several], list(best.values()))
        return current

    def find(self, utterance_id: str) -> int | None:
        """Return the place of an utterance; None if no part has it."""
        place = self._recent.get(utterance_id)
        if place is None:
            place = self._index.find_one(utterance_id)
        return place if place >= 0 else None

    def find_all(self, utterance_ids: Sequence[str]) -> Array:
        """Return the places (N,) int64 of utterances; -1 if no part has one."""
        found = self._index.find(utterance_ids)
        if self._recent:
            found = np.fromiter(map(self._recent.get, utterance_ids, found.tolist()), np.int64, len(found))
        return found

    def part_of(self, place: int) -> Part | None:
        """Return the part of a place; None if it was removed."""
        return self.parts[place >> INDEX_BITS]

    def places(self) -> Array:
        """Return the places (N,) int64 of all utterances, sorted."""
        found = self._index.numbers
        if self._recent:
            replaced = self._index.find(list(self._recent))
            found = np.concatenate([found[~np.isin(found, replaced)], list(self._recent.values())])
        return np.sort(found)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return map(self.id_of, self.places().data)

    def _rank(self, place: int) -> tuple[int, str, int]:
        """Return the rank of a place: of those of one utterance, the highest counts."""
        part = self.parts[place >> INDEX_BITS]
        return (part.generation, part.path.name, place & INDEX) if part is not None else (-1, "", 0)


def _places(number: int, part: Part) -> Array:
    """Return the places (N,) int64 of the part with this number."""
    return np.arange(len(part)) + (number << INDEX_BITS)


def _id_reader(ids: Sequence[Texts]) -> Callable[[int], str]:
    """Return a function from a place to an id; it does not refer to the table, which is then freed at once."""
    return lambda place: ids[place >> INDEX_BITS][place & INDEX]
