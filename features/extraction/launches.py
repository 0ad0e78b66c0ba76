"""Launches: the batches of a unit on the device, also ahead of the unit's turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator

from features.extraction.encode import LaunchedBatch, ReadBatch
from features.extraction.unit import Unit
from features.extraction.unit_reader import UnitReader

AHEAD = 4
"""Maximum number of batches that are launched while the unit before is committed."""
AHEAD_BYTES = 256 << 20
"""Bytes of their features from which on no further batch is launched."""


class Launches:
    """Launches the batches of a unit in order.

    Batches can be launched before they are asked for. Nothing of them is kept if the process is killed, or if
    another process takes the unit.
    """

    def __init__(self, unit: Unit, reader: UnitReader, launch: Callable[[ReadBatch], LaunchedBatch]) -> None:
        self.unit, self._reader, self._launch = unit, reader, launch
        self._batches: Generator[ReadBatch, None, None] = reader.batches(unit)
        self._sizes = deque(map(len, unit.batches))
        """Numbers of utterances of the batches that are not launched."""
        self._launched: deque[LaunchedBatch] = deque()
        self._error: Exception | None = None

    def launch_ahead(self) -> bool:
        """Launch the next batch if it is read and if not too much was launched already; tell whether it was.

        Its exception is raised in its place.
        """
        if self._is_full or not self._reader.is_ready(self._sizes[0]):
            return False
        try:
            self._launched.append(self._next())
        except Exception as error:
            self._error = error
        return True

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Wait until a batch can be launched ahead or `is_over`, at most for a fraction of a second."""
        self._reader.wait(None if self._is_full else self._sizes[0], is_over)

    @property
    def _is_full(self) -> bool:
        """True if no further batch is launched ahead."""
        if self._error is not None or not self._sizes or len(self._launched) >= AHEAD:
            return True
        return sum(batch.num_bytes for batch in self._launched) >= AHEAD_BYTES

    def __iter__(self) -> Iterator[LaunchedBatch]:
        """Yield all batches, launched."""
        while self._launched or self._error is not None or self._sizes:
            if self._launched:
                yield self._launched.popleft()
            elif self._error is not None:
                raise self._error
            else:
                yield self._next()

    def close(self) -> None:
        """Drop the batches that were not taken."""
        self._launched.clear()
        self._batches.close()

    def _next(self) -> LaunchedBatch:
        self._sizes.popleft()
        return self._launch(next(self._batches))
