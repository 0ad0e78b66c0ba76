"""Prefetch: results come in order and within bounds, and no item can stop the others."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import torch

from features import signals
from features.errors import InputError
from features.extraction import prefetch
from features.extraction.prefetch import NoResultError, Prefetch


@contextmanager
def reading(
    function: Callable[[int], Any], workers: int, *seconds: float | None, size: int = 0
) -> Iterator[Prefetch[int, Any]]:
    """Yield a Prefetch with an item for each of these durations."""
    with closing(Prefetch[int, Any](function, workers, lambda result: size)) as reader:
        reader.add(enumerate(seconds))
        yield reader


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_results_come_in_order_whatever_takes_long(workers: int) -> None:
    done: list[int] = []

    def read(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        done.append(item)
        return item * item

    with reading(read, workers, *[1.0] * 6) as reader:
        assert [reader.take() for _ in range(6)] == [0, 1, 4, 9, 16, 25]
    assert (done == sorted(done)) == (workers < 2)  # the control: several threads did overtake the first


def test_what_is_read_ahead_is_bounded_in_bytes_and_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_BYTES", 3 * 64_000)
    begun: list[int] = []
    with reading(begun.append, 2, 9.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, size=64_000) as reader:
        wait_until(lambda: sorted(begun) == [0, 1, 2])  # the first has 9 s by the estimate, and 1 s when it is read
        time.sleep(0.01)
        assert len(begun) == 3
        reader.take()
        wait_until(lambda: sorted(begun) == [0, 1, 2, 3])
        time.sleep(0.01)
        assert len(begun) == 4
        reader.drop(3)
        wait_until(lambda: sorted(begun) == [0, 1, 2, 3, 4, 5, 6])
    monkeypatch.setattr(prefetch, "MAX_ITEMS", 4)
    begun.clear()
    with reading(begun.append, 2, *[0.0] * 9):
        wait_until(lambda: len(begun) == 4)
        time.sleep(0.01)
        assert len(begun) == 4


def test_an_item_that_hangs_is_left_behind_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LIMIT_S", 0.3)
    release = threading.Event()

    def read(item: int) -> int:
        return item if item else int(release.wait())

    with reading(read, 1, 0.0, 0.0, 0.0) as reader:
        with pytest.raises(NoResultError, match="it was not read within 0 s"):
            reader.take()
        assert [reader.take(), reader.take()] == [1, 2]
        release.set()


def test_many_items_that_hang_are_a_fault_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LIMIT_S", 0.01)
    monkeypatch.setattr(prefetch, "MAX_STUCK", 1)
    release = threading.Event()
    with reading(lambda item: release.wait(), 1, 0.0, 0.0) as reader:
        with pytest.raises(NoResultError):
            reader.take()
        with pytest.raises(InputError, match="2 files were not read within .*and the same command resumes"):
            reader.take()
        release.set()


def test_an_error_is_raised_at_its_place_and_an_end_of_the_thread_is_reported() -> None:
    def read(item: int) -> int:
        if item == 1:
            raise ValueError("a bug")
        if item == 2:
            raise SystemExit
        return item

    with reading(read, 1, *[0.0] * 4) as reader:
        assert reader.take() == 0
        with pytest.raises(ValueError, match="a bug"):
            reader.take()
        with pytest.raises(NoResultError, match="its thread ended with SystemExit"):
            reader.take()
        assert reader.take() == 3


def test_audio_of_unknown_duration_has_no_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LIMIT_S", 0.0)
    with reading(lambda item: time.sleep(0.01), 1, None) as reader:
        assert reader.take() is None


def test_ctrl_c_ends_the_wait_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "POLL_S", 0.01)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.01)
    release = threading.Event()
    with reading(lambda item: release.wait(), 1, 0.0) as reader:
        signals._received.add(2)
        with pytest.raises(KeyboardInterrupt):
            reader.take()
    release.set()


def test_a_thread_that_reads_uses_one_core() -> None:
    torch.set_num_threads(3)
    with reading(lambda item: torch.get_num_threads(), 1, 0.0) as reader:
        assert reader.take() == 1
    assert torch.get_num_threads() == 3
    with reading(lambda item: torch.get_num_threads(), 0, 0.0) as reader:
        assert reader.take() == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_added_after_the_end(workers: int) -> None:
    with reading(lambda item: item, workers, 0.0) as reader:
        assert reader.take() == 0
    with pytest.raises(RuntimeError, match=r"after close\(\)"):  # no thread would read it
        reader.add([(1, 0.0)])


def test_the_caller_waits_for_the_items_it_needs_or_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "POLL_S", 10.0)
    gates = [threading.Event() for _ in range(3)]
    over = threading.Event()

    def read(item: int) -> int:
        gates[item].wait()
        return item

    def waiting(count: int | None) -> threading.Thread:
        thread = threading.Thread(target=reader.wait, args=(count, over.is_set))
        thread.start()
        return thread

    def is_waiting(thread: threading.Thread) -> bool:
        thread.join(0.05)
        return thread.is_alive()

    def has_ended(thread: threading.Thread) -> bool:
        thread.join(5)  # less than POLL_S, after which every wait ends
        return not thread.is_alive()

    with reading(read, 2, 0.0, 0.0, 0.0) as reader:
        thread = waiting(2)
        gates[1].set()  # read before the first item
        assert is_waiting(thread) and not reader.is_ready(2)
        gates[0].set()
        assert has_ended(thread) and reader.is_ready(2) and not reader.is_ready(3)
        assert has_ended(waiting(2))  # they are read already
        for count in (3, 4, None):  # the third item, one that does not exist, none
            thread = waiting(count)
            assert is_waiting(thread)
            over.set()
            assert is_waiting(thread)  # nobody has told it
            reader.wake()
            assert has_ended(thread)
            over.clear()
        gates[2].set()
        assert has_ended(waiting(3))
        assert [reader.take() for _ in range(3)] == [0, 1, 2]


def test_the_caller_wakes_up_once_for_several_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "POLL_S", 10.0)
    gates = [threading.Event() for _ in range(20)]
    woken: list[int] = []
    with reading(lambda item: gates[item].wait(), 2, *[0.0] * 20) as reader:
        monkeypatch.setattr(reader, "_while_waiting", lambda: woken.append(0))
        notify = reader._changed.notify
        monkeypatch.setattr(reader._changed, "notify", lambda: (woken.append(1), notify()))
        thread = threading.Thread(target=reader.wait_for_next, args=(20,))
        thread.start()
        for gate in [*gates[1::2], *gates[::2]]:
            gate.set()
            time.sleep(0.001)
        thread.join(5)
        assert not thread.is_alive() and reader.is_ready(20)
    assert woken == [1]


def test_nobody_waits_for_items_that_are_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there is room for, more than there are, none at all, and one that hangs."""
    monkeypatch.setattr(prefetch, "MAX_BYTES", 3 * 64_000)
    monkeypatch.setattr(prefetch, "POLL_S", 10.0)
    started = time.monotonic()
    with reading(lambda item: time.sleep(0.02) or item, 2, *[1.0] * 6, size=64_000) as reader:
        reader.wait_for_next(6)
        assert time.monotonic() - started < 5  # the last item that was read has told it
        assert reader.is_ready(3) and not reader.is_ready(4)
        assert [reader.take() for _ in range(6)] == list(range(6))
    with reading(lambda item: item, 2, 0.0, 0.0) as reader:
        reader.wait_for_next(3)
        assert reader.is_ready(2)
    with reading(lambda item: item, 0, 0.0) as reader:
        reader.wait_for_next(1)
        assert not reader.is_ready(1)
    monkeypatch.setattr(prefetch, "LIMIT_S", 0.3)
    monkeypatch.setattr(prefetch, "POLL_S", 0.01)
    release = threading.Event()
    with reading(lambda item: release.wait() if item == 1 else item, 2, *[0.0] * 3) as reader:
        reader.wait_for_next(3)
        assert reader.take() == 0
        with pytest.raises(NoResultError):
            reader.take()
        assert reader.take() == 2
        release.set()
