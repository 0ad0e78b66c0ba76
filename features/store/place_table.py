"""PlaceTable: finds utterances by id in the parts of a store, without a Python object per utterance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from features.store.mapped import Array
from features.store.part import Part
from features.store.texts import Texts

INDEX_BITS = 32
"""A place is the number of a part, times 2 ** INDEX_BITS, plus the index in the part."""
INDEX = (1 << INDEX_BITS) - 1
HASH = (1 << 64) - 1
RECENT = 4096
"""Number of utterances, at least, that are added to a dictionary until the table is sorted again."""


class PlaceTable:
    """Places of utterances by id, with 12 to 16 bytes per utterance.

    The places are sorted by the hash of their id, and divided into about as many ranges as there
    are utterances: a search looks at one or two ids. Utterances that are added later are in a
    dictionary, until there are a quarter as many as in the table.

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
        self._recent: dict[str, int] = {}
        self._set(np.zeros(0, np.uint64), np.zeros(0, np.int64))

    def add(self, parts: Sequence[Part]) -> None:
        """Add parts."""
        first = len(self.parts)
        for number, part in enumerate(parts, first):
            self.parts.append(part)
            self.numbers[part.path.name] = number
            self._ids.append(part.utterance_ids)
        if len(self._recent) + sum(map(len, parts)) > max(RECENT, len(self._sorted[2]) // 4):
            self._sort()
            return
        for number, part in enumerate(parts, first):
            for index, utterance_id in enumerate(part.utterance_ids):
                place = number << INDEX_BITS | index
                other = self.find(utterance_id)
                if other is None or self._rank(place) >= self._rank(other):
                    self._recent[utterance_id] = place
                self._count += other is None

    def remove(self, names: Iterable[str]) -> None:
        """Remove parts; other parts may hold their utterances."""
        gone = [self.numbers.pop(name, None) for name in names]
        self._sort()
        for number in gone:
            if number is not None:  # unless another thread has removed it
                self.parts[number] = None

    def _sort(self) -> None:
        """Build the table from the parts."""
        hashes, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number in self.numbers.values():
            ids = self._ids[number]
            hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
            places.append(np.arange(len(ids)) + (number << INDEX_BITS))
        all_hashes, all_places = np.concatenate(hashes).view(np.uint64), np.concatenate(places)
        order = np.argsort(all_hashes)
        self._set(*self._without_replaced(all_hashes[order], all_places[order]))
        self._recent = {}

    def _without_replaced(self, hashes: Array, places: Array) -> tuple[Array, Array]:
        """Leave out the utterances, sorted by hash, that another part replaces."""
        same = hashes[1:] == hashes[:-1]
        if not same.any():
            return hashes, places
        # equal ids have equal hashes; different ids may have them too
        several = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        best: dict[str, int] = {}
        for place in places[several].tolist():
            utterance_id = self.id_of(place)
            other = best.get(utterance_id)
            if other is None or self._rank(place) >= self._rank(other):
                best[utterance_id] = place
        kept = np.ones(len(places), bool)
        kept[several] = np.isin(places[several], list(best.values()))
        return hashes[kept], places[kept]

    def _set(self, hashes: Array, places: Array) -> None:
        """Set the table: places sorted by hash, and where each range of hashes starts."""
        bits = max(1, len(places).bit_length())
        shift = 64 - bits
        numbers = np.bincount((hashes >> np.uint64(shift)).astype(np.int64), minlength=1 << bits)
        starts = np.zeros(len(numbers) + 1, np.min_scalar_type(len(places)))
        np.cumsum(numbers, out=starts[1:], dtype=starts.dtype)
        # elements of a memoryview are Python's integers, and faster to get than those of an array;
        # one assignment, because other threads may be searching
        self._sorted = shift, starts.data, places.data
        self._count = len(places)

    def find(self, utterance_id: str) -> int | None:
        """Return the place of an utterance; None if no part has it."""
        place = self._recent.get(utterance_id)
        return self._find_sorted(utterance_id) if place is None else place

    def _find_sorted(self, utterance_id: str) -> int | None:
        """Return the place of an utterance in the sorted table."""
        shift, starts, places = self._sorted
        number = (hash(utterance_id) & HASH) >> shift
        for i in range(starts[number], starts[number + 1]):
            place: int = places[i]
            if self._ids[place >> INDEX_BITS][place & INDEX] == utterance_id:
                return place
        return None

    def id_of(self, place: int) -> str:
        """Return the id of the utterance at a place."""
        return self._ids[place >> INDEX_BITS][place & INDEX]

    def part_of(self, place: int) -> Part | None:
        """Return the part of a place; None if it was removed."""
        return self.parts[place >> INDEX_BITS]

    def places(self) -> Array:
        """Return the places (N,) int64 of all utterances, sorted."""
        found = np.asarray(self._sorted[2])
        if self._recent:
            replaced = [place for place in map(self._find_sorted, self._recent) if place is not None]
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
