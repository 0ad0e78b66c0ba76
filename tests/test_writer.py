"""StoreWriter: parts close in time, and a failure keeps what was committed."""

import os
import resource
from pathlib import Path

import pytest
from tiny_store import make_store, parts, stored, write

from features.errors import InputError
from features.store.reader import FeatureStore
from features.store.writer import PART_UTTERANCES, READ_ONLY, StoreWriter, disk_error


def test_a_part_closes_after_256_utterances_and_equal_utterances_are_one_part(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    utterances = [stored(str(i), 1) for i in range(PART_UTTERANCES)]
    for _ in range(2):
        with StoreWriter(info, 0, kind) as writer:
            for start in range(0, PART_UTTERANCES, 32):
                writer.add(utterances[start : start + 32])
            assert len(parts(info)) == 1
    assert len(FeatureStore(info.path)) == PART_UTTERANCES
    assert not list(info.path.glob(".*"))


def test_utterances_are_committed_when_the_work_fails(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    with pytest.raises(KeyboardInterrupt), StoreWriter(info) as writer:
        writer.add([stored("a", 2)])
        raise KeyboardInterrupt
    assert list(FeatureStore(info.path)) == ["a"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"features.store.{kind}.write", full)
    with pytest.raises(InputError, match="the disk is full; finished work is kept"):
        write(info, [stored("b", 2)], kind=kind)
    assert sorted(path.suffix for path in info.path.iterdir()) == [".h5", ".json"]
    assert list(FeatureStore(info.path)) == ["a"]


@pytest.mark.parametrize("number", READ_ONLY)
def test_a_store_that_cannot_be_written_is_said(tmp_path: Path, number: int) -> None:
    error = disk_error(make_store(tmp_path), OSError(number, os.strerror(number)))
    assert "it must be writable, found: " in str(error) and "Make it writable" in str(error)


@pytest.mark.parametrize("limit", [0, 1000, 4500])
def test_a_limit_on_the_size_of_files_is_an_input_error_at_any_size(tmp_path: Path, kind: str, limit: int) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match="larger than this process may write; finished work is kept. Raise"):
            write(info, [stored("b", 800)], kind=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(FeatureStore(info.path)) == ["a"] and len(list(info.path.iterdir())) == 2
