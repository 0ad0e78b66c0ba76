"""Columns of strings without a Python object per value, and an index that finds strings by their hash."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
MAX_KNOWN = 1 << 18
"""Number of values that a column of repeated strings remembers while it is filled."""
NONE = -1
"""Code of None."""


class Texts:
    """Column of strings that do not repeat: their UTF-8 in one array of bytes."""

    __slots__ = ("_ends", "_utf8")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._utf8 = bytearray()
        self._ends = array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a string at the end."""
        self._utf8 += text.encode()
        self._ends.append(len(self._utf8))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._utf8[self._ends[index] : self._ends[index + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class RepeatedTexts:
    """Column of strings that repeat, such as speakers or recordings: a code per value.

    A value can have several codes, if very many others are added between two times.
    """

    __slots__ = ("_known", "codes", "values")

    def __init__(self) -> None:
        self.codes = array("i")
        """Index into `values`; NONE for None."""
        self.values = Texts()
        self._known: dict[str, int] = {}

    def append(self, text: str | None) -> None:
        """Add a string or None at the end."""
        if text is None:
            self.codes.append(NONE)
            return
        code = self._known.get(text)
        if code is None:
            if len(self._known) == MAX_KNOWN:  # each entry takes 150 bytes
                self._known.clear()
            code = self._known[text] = len(self.values)
            self.values.append(text)
        self.codes.append(code)

    def complete(self) -> None:
        """Release what only adding needs."""
        self._known = {}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> str | None:
        code = self.codes[index]
        return None if code == NONE else self.values[code]


class HashIndex:
    """Finds strings by their hash, with 16 bytes per string.

    `text_of` returns the string at an index; found strings are compared with it.
    """

    def __init__(self, texts: Iterable[str], text_of: Callable[[int], str]) -> None:
        hashes = np.fromiter(map(hash, texts), np.int64)
        self._order: Array = np.argsort(hashes, kind="stable")
        self._hashes: Array = hashes[self._order]
        self._text_of = text_of

    def find(self, texts: Sequence[str]) -> Array:
        """Return the index of each string, (N,) int64; -1 if it is unknown."""
        found = np.full(len(texts), -1, np.int64)
        if not len(self._hashes):
            return found
        hashes = np.fromiter(map(hash, texts), np.int64, len(texts))
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[places] == hashes)
        indices = self._order[places[hits]]
        found[hits] = indices
        for i, index in zip(hits.tolist(), indices.tolist(), strict=True):
            if self._text_of(index) != texts[i]:
                found[i] = self._compare(texts[i], int(places[i]))
        return found

    def _compare(self, text: str, place: int) -> int:
        """Return the index of a string, from the first place with its hash on; -1 if it is unknown."""
        first = self._hashes[place]
        while place < len(self._hashes) and self._hashes[place] == first:
            index = int(self._order[place])
            if self._text_of(index) == text:
                return index
            place += 1  # two strings can have the same hash
        return -1

    def repeated(self) -> list[int]:
        """Return the indices of strings whose hash another one has, in order."""
        same = self._hashes[1:] == self._hashes[:-1]
        marked = np.zeros(len(self._hashes), bool)
        marked[1:] |= same
        marked[:-1] |= same
        return sorted(self._order[marked].tolist())
