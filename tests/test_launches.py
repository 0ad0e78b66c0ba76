"""Launches: batches that are launched ahead are those of the unit's turn, within bounds, and errors wait for it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tiny_extraction import utterance

from features.extraction import launches
from features.extraction.encode import LaunchedBatch, ReadBatch
from features.extraction.launches import Launches
from features.extraction.unit import Unit

UNIT = Unit("u", [[utterance(f"{batch}{i}") for i in range(2)] for batch in "abcdef"], [set()])


class Reader:
    """Reads batches, of which some are not read yet."""

    def __init__(self, num_ready: int) -> None:
        self.num_ready, self.closed = num_ready, False
        self.awaited: int | None = -1

    def is_ready(self, count: int) -> bool:
        """Tell whether this number of utterances is read."""
        return count <= self.num_ready

    def wait(self, count: int | None, is_over: Callable[[], bool]) -> None:
        """Remember what is waited for."""
        self.awaited = count

    def batches(self, unit: Unit) -> Iterator[ReadBatch]:
        """Yield one batch after the other."""
        try:
            for batch in unit.batches:
                self.num_ready -= len(batch)
                yield ReadBatch(list(batch), [])  # type: ignore[arg-type]
        finally:
            self.closed = True


def launch(read: ReadBatch) -> LaunchedBatch:
    return LaunchedBatch(read, [])


def names(batches: Any) -> str:
    return "".join(batch.read.inputs[0].utterance_id[0] for batch in batches)


def test_what_was_launched_ahead_comes_first_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(7)
    ahead = Launches(UNIT, reader, launch)  # type: ignore[arg-type]
    assert [ahead.launch_ahead() for _ in range(4)] == [True, True, True, False]  # of the fourth, one is read
    ahead.wait(lambda: False)
    assert reader.awaited == 2
    assert names(ahead) == "abcdef"
    monkeypatch.setattr(launches, "AHEAD", 2)
    ahead = Launches(UNIT, Reader(100), launch)  # type: ignore[arg-type]
    assert [ahead.launch_ahead() for _ in range(3)] == [True, True, False]
    monkeypatch.setattr(launches, "AHEAD_BYTES", 0)
    assert not Launches(UNIT, Reader(100), launch).launch_ahead()  # type: ignore[arg-type]


def test_nothing_is_launched_after_the_last_batch() -> None:
    reader = Reader(9)
    ahead = Launches(Unit("u", UNIT.batches[:1], [set()]), reader, launch)  # type: ignore[arg-type]
    assert [ahead.launch_ahead(), ahead.launch_ahead()] == [True, False]
    ahead.wait(lambda: False)
    assert reader.awaited is None
    assert names(ahead) == "a"


def test_an_error_is_raised_in_its_place() -> None:
    def fail(read: ReadBatch) -> LaunchedBatch:
        if read.inputs[0].utterance_id == "b0":  # type: ignore[attr-defined]
            raise ValueError("the memory is full")
        return launch(read)

    ahead = Launches(UNIT, Reader(100), fail)  # type: ignore[arg-type]
    assert [ahead.launch_ahead() for _ in range(3)] == [True, True, False]
    batches = iter(ahead)
    assert names([next(batches)]) == "a"
    with pytest.raises(ValueError, match="the memory is full"):
        next(batches)


def test_a_unit_that_another_process_took_is_dropped() -> None:
    reader = Reader(100)
    ahead = Launches(UNIT, reader, launch)  # type: ignore[arg-type]
    ahead.launch_ahead()
    ahead.close()
    assert reader.closed
