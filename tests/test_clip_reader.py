"""Clips are read in order, ahead across blocks, and no file can stop the others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.audio.decoding import Decoded
from features.audio.file_state import UNKNOWN
from features.audio.segment import AudioError
from features.audio.segment_reader import SegmentReader
from features.extraction import prefetch
from mervn.use import clip_reader
from mervn.use.clip_reader import ClipReader
from mervn.use.clips import Clip

CLIPS = [Clip(Path(str(i))) for i in range(9)]
BLOCKS = [CLIPS[:3], CLIPS[3:6], CLIPS[6:]]


class Processes:
    """Stands for the processes that decode: the samples are the name of the file."""

    def __init__(self, before: Callable[[str], object] = lambda name: None) -> None:
        self.begun: list[str] = []
        self.before = before
        self.read = threading.Semaphore(0)

    def decode(self, path: Path, *_: Any) -> Decoded:
        self.begun.append(path.name)
        self.read.release()
        self.before(path.name)
        if path.name == "4":
            return Decoded(UNKNOWN, np.zeros(0, np.float32), "", ("damaged", "4 is damaged"))
        return Decoded(UNKNOWN, np.full(2, float(path.name), np.float32), "")

    def abandon(self, thread: threading.Thread) -> None:
        """Do nothing."""

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.read.acquire(timeout=10)


@contextmanager
def reading(workers: int, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Iterator[ClipReader]:
    monkeypatch.setattr(clip_reader, "PROCESSES", processes)
    monkeypatch.setattr(Clip, "samples", lambda clip, _: processes_samples(processes, clip))
    reader = ClipReader(workers, SegmentReader())
    try:
        yield reader
    finally:
        reader.close()


def processes_samples(processes: Processes, clip: Clip) -> Any:
    found = processes.decode(Path(str(clip.audio)))
    found.check()
    return found.samples


def names(read: Iterator[Any]) -> list[Any]:
    return [one.reason if isinstance(one, AudioError) else str(int(one[0])) for one in read]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("prepared", [[], [0, 1, 2], [1], [0, 2]])
def test_clips_are_read_in_order_whatever_was_prepared(
    workers: int, prepared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(workers, monkeypatch, Processes()) as reader:
        for number in prepared:
            reader.prepare(BLOCKS[number], [1.0] * 3)
        found = [names(reader.read(block)) for block in BLOCKS]
    assert found == [["0", "1", "2"], ["3", "damaged", "5"], ["6", "7", "8"]]


def test_the_next_block_is_read_while_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(1, monkeypatch, processes := Processes()) as reader:
        reader.prepare(BLOCKS[0], [1.0] * 3)
        reader.prepare(BLOCKS[1], [1.0] * 3)
        assert names(reader.read(BLOCKS[0])) == ["0", "1", "2"]
        processes.wait_for(6)  # nobody has asked for the second block yet
        assert names(reader.read(BLOCKS[1])) == ["3", "damaged", "5"]
    assert processes.begun == list("012345")
    with reading(0, monkeypatch, processes := Processes()) as reader:  # negative control: without workers
        reader.prepare(BLOCKS[1], [1.0] * 3)
        assert names(reader.read(BLOCKS[0])) == ["0", "1", "2"]
    assert processes.begun == list("012")


def test_a_block_that_is_read_in_part_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(2, monkeypatch, Processes()) as reader:
        for block in BLOCKS:
            reader.prepare(block, [1.0] * 3)
        first = reader.read(BLOCKS[0])
        assert int(next(first)[0]) == 0  # type: ignore[index]
        first.close()  # type: ignore[attr-defined]
        assert names(reader.read(BLOCKS[1])) == ["3", "damaged", "5"]


def test_a_file_that_hangs_is_a_fault_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "LIMIT_S", 0.05)
    hang = threading.Event()
    processes = Processes(lambda name: hang.wait() if name == "1" else None)
    try:
        with reading(1, monkeypatch, processes) as reader:
            reader.prepare(BLOCKS[0], [0.01] * 3)
            zero, fault, two = reader.read(BLOCKS[0])
    finally:
        hang.set()
    assert isinstance(fault, AudioError) and fault.reason == "system_error"
    assert "1 cannot be read now, found: it was not read within 0 s" in str(fault)
    assert names(iter([zero, two])) == ["0", "2"]
