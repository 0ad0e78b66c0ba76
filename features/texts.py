"""Texts: a column of strings in one block of bytes, without a Python object per string."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Self

import numpy as np

WIDER = {"H": "I", "I": "Q"}
"""The next larger type code of the ends: of 2, 4 and 8 bytes."""


class Texts:
    """Strings; each takes 2 to 8 bytes beside its UTF-8. A `str` is made when one is read.

    Equal to a list of the same strings. Strings can be added to `Texts()`, without arguments: what
    is made of all strings at once has no room for more.
    """

    __slots__ = ("_ends", "_utf8")
    _ends: array[int]
    """Ends of the strings in the bytes, after a zero."""
    _utf8: bytes | bytearray

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._set([text.encode() for text in texts])
        if not texts:
            self._utf8 = bytearray()

    @classmethod
    def of_utf8(cls, encoded: Sequence[bytes]) -> Self:
        """Return the strings of their UTF-8; raises UnicodeDecodeError if it is not UTF-8."""
        texts = cls()
        texts._set(encoded)
        if not texts._utf8.isascii():
            for each in encoded:  # each for itself: a character must not be divided between two
                each.decode()
        return texts

    def _set(self, encoded: Sequence[bytes]) -> None:
        self._utf8 = b"".join(encoded)
        size = len(self._utf8)
        kind = "H" if size < 1 << 16 else "I" if size < 1 << 32 else "Q"
        self._ends = array(kind, [0, *accumulate(map(len, encoded))])  # from a list: faster

    def append(self, text: str) -> None:
        """Add a string at the end."""
        self._utf8 += text.encode()
        try:
            self._ends.append(len(self._utf8))
        except OverflowError:
            self._ends = array(WIDER[self._ends.typecode], self._ends)
            self._ends.append(len(self._utf8))

    def extend(self, other: Texts) -> None:
        """Add the strings of another column at the end."""
        before = len(self._utf8)
        self._utf8 += other._utf8
        while len(self._utf8) >> 8 * self._ends.itemsize:
            self._ends = array(WIDER[self._ends.typecode], self._ends)
        ends = np.frombuffer(other._ends, other._ends.typecode)[1:].astype(np.uint64) + np.uint64(before)
        self._ends.frombytes(ends.astype(self._ends.typecode).tobytes())

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return the string at an index, which counts from 0."""
        ends = self._ends
        return self._utf8[ends[index] : ends[index + 1]].decode()

    def utf8(self, index: int) -> bytes:
        """Return the UTF-8 of the string at an index."""
        return bytes(self._utf8[self._ends[index] : self._ends[index + 1]])

    def __iter__(self) -> Iterator[str]:
        if not self._utf8.isascii():
            return map(self.__getitem__, range(len(self)))
        text = self._utf8.decode()  # its characters are its bytes, and slices of it are faster
        return (text[first:end] for first, end in pairwise(self._ends))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | Texts) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
