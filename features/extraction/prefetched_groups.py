"""PrefetchedGroups: groups of items, such as the utterances of a unit, that a `Prefetch` reads in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

from features.extraction.prefetch import Item, Prefetch, Result

Taken = TypeVar("Taken")


class PrefetchedGroups(Generic[Item, Result]):
    """Groups of items that a `Prefetch` reads one after another; each is taken as a whole, or dropped."""

    def __init__(self, prefetch: Prefetch[Item, Result]) -> None:
        self._prefetch = prefetch
        self._groups: deque[list[Item]] = deque()
        """In order, the groups that are being read."""

    def prepare(self, items: Sequence[Item], seconds: Sequence[float | None]) -> None:
        """Read a group, with the seconds of audio of each item, after those that are being read."""
        self._groups.append(list(items))
        self._prefetch.add(zip(items, seconds, strict=True))

    def begin(self, items: Sequence[Item], seconds: Sequence[float | None]) -> None:
        """Begin to read a group, unless it is being read; drop the groups before it."""
        while self._groups and self._groups[0] != list(items):
            self._prefetch.drop(len(self._groups.popleft()))
        if not self._groups:
            self.prepare(items, seconds)

    def take(
        self, items: Sequence[Item], seconds: Sequence[float | None], take_one: Callable[[Item], Taken]
    ) -> Generator[Taken, None, None]:
        """Begin a group and yield `take_one` of each item, which takes its result from the prefetch."""
        self.begin(items, seconds)
        self._groups.popleft()
        left = len(items)
        try:
            for item in items:
                left -= 1
                yield take_one(item)
        finally:
            self._prefetch.drop(left)
