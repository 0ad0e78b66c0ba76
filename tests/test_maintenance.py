"""Stores are compacted, converted, verified and removed beside readers and extractions, and no utterance is missed."""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store import contents, damage, kind, make_store, parts, row, select, write  # noqa: F401

from features.errors import InputError
from features.store import reader
from features.store.claims import FOLDER, MAINTENANCE, REMOVAL, Claims
from features.store.index import damaged_stores, list_stores
from features.store.locks import store_lock
from features.store.maintenance import compact, convert, remove_store, verify
from features.store.part import SUFFIXES, part_paths, remove
from features.store.reader import FeatureStore
from features.store.rejected import read_rejected
from mervn.result_folder import locked

PLAIN_ITERDIR = Path.iterdir


def other_than(kind: str) -> str:  # noqa: F811
    return next(name for name in SUFFIXES if name != kind)


def test_a_scan_that_misses_old_and_new_parts_is_repeated(
    tmp_path: Path,
    kind: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part converted during the scan of a folder can be missed in both formats: the store looked empty."""
    info = make_store(tmp_path)
    for i in range(3):
        write(info, [row(str(i), 3, i)], kind=kind)

    def converted_meanwhile(folder: Path) -> Iterator[Path]:
        monkeypatch.setattr(Path, "iterdir", PLAIN_ITERDIR)
        before = list(folder.iterdir())
        convert(info.path, other_than(kind), lambda _: None)
        return iter([path for path in before if path.exists()])  # new parts came behind the cursor, old ones went

    monkeypatch.setattr(Path, "iterdir", converted_meanwhile)
    assert len(part_paths(info.path)) == 3
    convert(info.path, kind, lambda _: None)
    monkeypatch.setattr(Path, "iterdir", converted_meanwhile)
    assert sorted(FeatureStore(info.path)) == ["0", "1", "2"]


def test_a_store_that_is_converted_over_and_over_is_always_whole(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [row(str(i), 3, i)])
    early, stop, failed = FeatureStore(info.path), threading.Event(), list[BaseException]()

    def maintain() -> None:
        try:
            for turn in range(8):
                convert(info.path, ("zarr", "hdf5")[turn % 2], lambda _: None)
            compact(info.path)
        except BaseException as error:
            failed.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=maintain)
    thread.start()
    while not stop.is_set():
        for store in (early, FeatureStore(info.path)):
            assert sorted(store) == ["0", "1", "2", "3"] and store.num_bytes
            for i in range(4):
                np.testing.assert_array_equal(store.check(str(i)), row(str(i), 3, i).values)
            store.refresh()
    thread.join()
    assert not failed
    assert sorted(contents(info)) == ["0", "1", "2", "3"]


def test_a_reader_finds_the_new_parts_when_it_first_reads(tmp_path: Path, kind: str) -> None:  # noqa: F811
    info = make_store(tmp_path)
    for i in range(3):
        write(info, [row(str(i), 3, i)], kind=kind)
    early = FeatureStore(info.path)
    convert(info.path, other_than(kind), lambda _: None)
    assert early.utterance_info("0").input_sha256 == "sha-0"
    np.testing.assert_array_equal(early["2"], row("2", 3, 2).values)
    assert {part.path for part in early.parts} == set(parts(info))


def test_a_refresh_opens_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [row(str(i), 3, i)])
    store = FeatureStore(info.path)
    opened: list[Path] = []
    plain = reader.read_part

    def counted(path: Path) -> Any:
        opened.append(path)
        if len(opened) == 1:
            remove(path)  # it has gone before it could be read; the others are not opened again
        return plain(path)

    monkeypatch.setattr(reader, "read_part", counted)
    for i in (4, 5):
        write(info, [row(str(i), 3, i)])
    added = store.refresh()
    assert len(opened) == 2 and len(added) == 1 and len(store) == 5
    assert store.refresh() == [] and len(opened) == 2


def test_utterances_whose_part_is_set_aside_are_named(tmp_path: Path, kind: str) -> None:  # noqa: F811
    info = make_store(tmp_path)
    write(info, [row("a", 20)], kind=kind)
    write(info, [row("b", 20, 1)], kind=kind)
    store = FeatureStore(info.path)
    (bad,) = [part.path for part in store.parts if part.utterance_ids == ["a"]]
    damage(bad, row("a", 20).values[7])
    verify(info.path, True, lambda _: None)
    with pytest.raises(InputError, match="has lost 'a': its part was set aside or removed; extract it again"):
        store["a"]
    assert list(store) == ["b"] and len(store["b"]) == 20


def test_a_part_set_aside_twice_keeps_both(tmp_path: Path, kind: str) -> None:  # noqa: F811
    info = make_store(tmp_path)
    for _ in range(3):
        write(info, [row("a", 20)], kind=kind)
        damage(parts(info)[0], row("a", 20).values[7])
        (fault,) = verify(info.path, True, lambda _: None).faults
        assert fault.set_aside is not None and fault.set_aside.exists()
    assert len(list(info.path.glob("*.damaged*"))) == 3 and len(FeatureStore(info.path)) == 0


def test_maintenance_and_removal_keep_out_of_each_others_way(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])
    with Claims([info.path]) as other:
        assert other.take(MAINTENANCE) and not Claims([info.path]).held()  # no unit of an extraction
        for command in (compact, lambda path: convert(path, "zarr", lambda _: None)):
            with pytest.raises(InputError, match="is being compacted or converted by .*:[0-9]+; wait for it"):
                command(info.path)
        with pytest.raises(InputError, match="is being written to by .*:[0-9]+"):
            remove_store(info.path)
        other.release(MAINTENANCE)
        assert other.take(REMOVAL)
        with Claims([info.path]) as extraction, pytest.raises(InputError, match="is being removed by .*:[0-9]+"):
            extraction.take("unit")
        with pytest.raises(InputError, match="is being removed by"):
            compact(info.path)
    assert remove_store(info.path) == 1


def test_a_claim_in_a_store_that_was_removed_is_told_clearly(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])
    store = FeatureStore(info.path)
    with Claims([info.path]) as claims:
        remove_store(info.path)
        with pytest.raises(InputError, match="must be a feature store, but it was removed"):
            claims.take("unit")
    with pytest.raises(InputError, match="must be a feature store, but it was removed"):
        store.refresh()


def test_a_link_to_a_store_goes_with_the_store(tmp_path: Path) -> None:
    info = make_store(tmp_path / "disk")
    write(info, [row("a", 2)])
    link = tmp_path / "features" / "audio" / info.path.name
    link.parent.mkdir(parents=True)
    link.symlink_to(info.path)
    with Claims([info.path]) as claims:
        assert claims.take("unit")
        with pytest.raises(InputError, match="is being written to"):
            remove_store(link)
    assert len(FeatureStore(link)) == 1
    assert remove_store(link) == 1
    assert not link.is_symlink() and not info.path.exists() and not list(info.path.parent.iterdir())


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, other = make_store(tmp_path), make_store(tmp_path, layer=5)
    for one in (info, other):
        write(one, [row("a", 2)])
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    remove_store(info.path)
    assert [found.path for found in list_stores(tmp_path)] == [other.path] and len(
        list(other.path.parent.iterdir())
    ) == 2
    monkeypatch.undo()
    remove_store(other.path)
    assert not list(other.path.parent.iterdir())


@pytest.mark.parametrize(
    "text", ["", '{"schema": 2', "[]", "[" * 5000, '{"schema": 2, "identity": [], "provenance": {}}']
)
def test_a_damaged_store_hides_no_other(tmp_path: Path, text: str) -> None:
    good, bad = make_store(tmp_path), make_store(tmp_path, layer=5)
    (bad.path / "store.json").write_text(text)
    assert [info.path for info in list_stores(tmp_path)] == [good.path] and select(tmp_path, "whisper") == good.path
    (error,) = damaged_stores(tmp_path)
    assert str(bad.path) in str(error)
    with pytest.raises(InputError, match="must describe a feature store"):
        select(tmp_path, None, bad.path)
    with pytest.raises(InputError, match=rf"not considered: {bad.path}/store.json must describe a feature store"):
        select(tmp_path, "whisper@5")


@pytest.mark.parametrize("cut", range(1, 12))
def test_remembered_sources_may_be_cut_anywhere(tmp_path: Path, cut: int) -> None:
    """Cut inside a character of an id, the file was a traceback of everything that reads the store."""
    info = make_store(tmp_path)
    write(info, [row("a\u2028b", 2), row("ừừừ", 2)])
    store = FeatureStore(info.path)
    store.remember_sources({"a\u2028b": '{"path": "first.wav"}'})
    file = info.path / "sources.jsonl"
    file.write_bytes(file.read_bytes() + '{"utterance_id": "ừừừ"'.encode()[:-cut])
    store = FeatureStore(info.path)
    assert json.loads(store.utterance_info("ừừừ").source) == {"path": "ừừừ.wav"}
    assert store.utterance_info("a\u2028b").source == '{"path": "first.wav"}'
    store.remember_sources({"ừừừ": '{"path": "second.wav"}'})
    assert FeatureStore(info.path).utterance_info("ừừừ").source == '{"path": "second.wav"}'


def test_rejected_utterances_may_be_cut_anywhere(tmp_path: Path) -> None:
    entry = {"utterance_id": "ừ", "file": "train.jsonl", "line": 1, "reason": "x", "detail": "ừ"}
    content = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    for size in range(len(content)):
        (tmp_path / "rejected.jsonl").write_bytes(content + content[:size])
        assert list(read_rejected(tmp_path)) == ["ừ"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_claims_take_the_place_of_a_missing_flock(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)

    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr("features.store.locks.WAIT_S", 0.01)
    inside, overlaps = threading.Lock(), []

    def work() -> None:
        for _ in range(3):
            with store_lock(info.path):
                overlaps.append(not inside.acquire(blocking=False))
                inside.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 9 and not (info.path / FOLDER).exists()
    with (
        pytest.raises(InputError, match="must be on a file system that can lock files, found: .*-o flock"),
        locked(tmp_path / "run", "config.json", "run"),
    ):
        pass
