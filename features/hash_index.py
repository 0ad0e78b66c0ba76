"""HashIndex: finds strings by their hash, without a Python object per string."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]
TextOf = Callable[[int], str]
HASH_BITS = 32
"""Bits of a hash that are kept: the upper half of Python's hash of the UTF-8."""
MASK = (1 << HASH_BITS) - 1
PER_RANGE = 8
"""Approximate number of hashes among which a single string is searched."""


class HashIndex:
    """Finds the number of a string, with 8 to 13 bytes per string.

    The numbers are sorted by the hash of their string, and divided into ranges of hashes.
    `text_of` returns the string of a number: strings are compared, because several can have one
    hash. An index never changes, so that threads can share it.
    """

    def __init__(self, hashes: Array, numbers: Array, text_of: TextOf) -> None:
        """`hashes` (N,) uint32 must be sorted; `numbers` (N,) are integers."""
        self.hashes, self.numbers, self._text_of = hashes, numbers, text_of
        bits = max(1, (len(hashes) // PER_RANGE).bit_length())
        self._shift = HASH_BITS - bits
        firsts = np.arange(1 << bits, dtype=np.uint32) << np.uint32(self._shift)
        starts = np.append(np.searchsorted(hashes, firsts), len(hashes))
        # elements of a memoryview are Python's integers, and faster to get than those of an array
        self._search = hashes.data, numbers.data, starts.astype(np.min_scalar_type(len(hashes))).data

    @classmethod
    def of(cls, texts: Iterable[str], text_of: TextOf) -> Self:
        """Return the index of strings by their position."""
        hashes = hashes_of(texts)
        return cls.sort(hashes, np.arange(len(hashes), dtype=np.int32), text_of)

    @classmethod
    def sort(cls, hashes: Array, numbers: Array, text_of: TextOf) -> Self:
        """Return the index of numbers by the hashes of their strings, (N,) uint32, in any order.

        Numbers of equal hashes stay in their order.
        """
        order = sort_order(hashes)
        return cls(hashes[order], numbers[order], text_of)

    def with_others(self, hashes: Array, numbers: Array) -> Self:
        """Return the index with more numbers, which come after those of equal hashes."""
        if not len(self):
            return self.sort(hashes, numbers, self._text_of)
        order = sort_order(hashes)
        places = np.searchsorted(self.hashes, hashes[order], side="right")
        hashes = np.insert(self.hashes, places, hashes[order])
        return type(self)(hashes, np.insert(self.numbers, places, numbers[order]), self._text_of)

    def select(self, chosen: Array) -> Self:
        """Return the index of the numbers chosen by a mask (N,)."""
        return type(self)(self.hashes[chosen], self.numbers[chosen], self._text_of)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, texts: Sequence[str], hashes: Array | None = None) -> Array:
        """Return the first number of each string, (N,) int64; -1 if it is unknown.

        `hashes` (N,) uint32 are those of the strings, if they were computed.
        """
        found = np.full(len(texts), -1, np.int64)
        if not len(self):
            return found
        if hashes is None:
            hashes = hashes_of(texts)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        hits = np.flatnonzero(self.hashes[places] == hashes)
        numbers = self.numbers[places[hits]]
        found[hits] = numbers
        for i, text in zip(hits.tolist(), map(self._text_of, numbers.tolist()), strict=True):
            if text != texts[i]:
                found[i] = self.find_one(texts[i])
        return found

    def find_one(self, text: str) -> int:
        """Return the first number of a string; -1 if it is unknown."""
        hashes, numbers, starts = self._search
        wanted = hash(text.encode()) >> HASH_BITS & MASK
        first = wanted >> self._shift
        end = starts[first + 1]
        place = bisect_left(hashes, wanted, starts[first], end)
        while place < end and hashes[place] == wanted:
            number: int = numbers[place]
            if self._text_of(number) == text:
                return number
            place += 1  # two strings can have the same hash
        return -1

    def repeated(self) -> Array:
        """Return a mask (N,) of the hashes that several numbers have."""
        same = self.hashes[1:] == self.hashes[:-1]
        found = np.zeros(len(self), bool)
        found[1:] |= same
        found[:-1] |= same
        return found


def hashes_of(texts: Iterable[str]) -> Array:
    """Return the hashes of strings, (N,) uint32."""
    return hashes_of_utf8(map(str.encode, texts))


def hashes_of_utf8(encoded: Iterable[bytes]) -> Array:
    """Return the hashes of strings from their UTF-8, (N,) uint32."""
    return (np.fromiter(map(hash, encoded), np.int64) >> HASH_BITS).astype(np.uint32)


def sort_order(hashes: Array) -> Array:
    """Return the order (N,) that sorts hashes; equal ones stay in their order."""
    # one sort of hashes and indices together takes a fraction of the time of `argsort`
    keys = hashes.astype(np.uint64) << np.uint64(HASH_BITS) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    keys &= np.uint64(MASK)
    return keys.view(np.int64)
