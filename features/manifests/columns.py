"""RepeatedTexts: a column of strings that repeat, without a Python object per value."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from features.texts import Texts

Array = np.ndarray[Any, Any]
MAX_KNOWN = 1 << 18
"""Number of values that a column of repeated strings remembers while it is filled."""
NONE = -1
"""Code of None."""


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

    def replaced(self, values: Sequence[str]) -> RepeatedTexts:
        """Return the column with other strings, one per code; both share their codes."""
        column = RepeatedTexts()
        column.codes, column.values = self.codes, Texts(values)
        return column

    def append(self, text: str | None) -> None:
        """Add a string or None at the end."""
        self.codes.append(NONE if text is None else self._code(text))

    def extend(self, other: RepeatedTexts) -> None:
        """Add the strings of another column at the end, in its order."""
        codes = np.array([*map(self._code, other.values), NONE], np.int32)  # NONE is the index of the last
        self.codes.frombytes(codes[np.frombuffer(other.codes, np.int32)].tobytes())

    def _code(self, text: str) -> int:
        """Return the code of a string, a new one if none is known."""
        code = self._known.get(text)
        if code is None:
            if len(self._known) == MAX_KNOWN:  # each entry takes 150 bytes
                self._known.clear()
            code = self._known[text] = len(self.values)
            self.values.append(text)
        return code

    def complete(self) -> None:
        """Release what only adding needs."""
        self._known = {}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> str | None:
        code = self.codes[index]
        return None if code == NONE else self.values[code]
