"""Mapped arrays: mapped when they are read, released when they are not used; no file stays open."""

import errno
import gc
import multiprocessing
import os
import random
import resource
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import make_store, parts, stored, write

from features.store import mapped
from features.store.reader import FeatureStore


@pytest.fixture(autouse=True, scope="module")
def only_new_objects() -> None:
    """Leave what other tests have imported and made out of garbage collections, each a third of a second."""
    gc.collect()
    gc.freeze()


def make_parts(folder: Path, count: int, kind: str) -> FeatureStore:
    info = make_store(folder)
    for i in range(count):
        write(info, [stored(f"{i}-a", 1 + i % 3, i), stored(f"{i}-b", 2, i)], kind=kind)
    return FeatureStore(info.path)


def ten_parts(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Return a store of ten parts, of which at most three stay mapped; no fixture, which would keep the store."""
    monkeypatch.setattr(mapped, "MAX_MAPPED", 3)
    return make_parts(folder, 10, kind)


def check_all(store: FeatureStore) -> int:
    for name in sorted(store):
        number, _, letter = name.partition("-")
        expected = stored(name, 1 + int(number) % 3 if letter == "a" else 2, int(number)).values
        np.testing.assert_array_equal(store[name], expected)
    return len(store)


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def torch_warns_always() -> Iterator[None]:
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def num_mapped(store: FeatureStore) -> int:
    gc.collect()
    return Path("/proc/self/maps").read_text().count(str(store.path))


@contextmanager
def at_most_open(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_file_stays_open(tmp_path: Path, kind: str) -> None:
    make_parts(tmp_path / "warm", 1, kind)
    before = open_files()
    store = make_parts(tmp_path / "store", 8, kind)
    assert check_all(store) == 16 and num_mapped(store) == 8
    assert open_files() == before


def test_more_parts_than_descriptors_are_read(tmp_path: Path, kind: str) -> None:
    """Every part kept a file open: a store of 1100 parts could not be opened where 1024 files may be."""
    info = make_parts(tmp_path, 70, kind).info
    with at_most_open(64):
        store = FeatureStore(info.path)
        assert check_all(store) == 140
        store.utterance_info("0-a")


def test_parts_that_are_not_read_are_released(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ten_parts(tmp_path, kind, monkeypatch)
    assert num_mapped(store) == 0
    held = store["0-a"]
    for i in range(10):
        assert len(store["0-b"]) == 2  # used again and again, so it stays
        check_all(store) if i == 5 else store[f"{i}-b"]
    assert num_mapped(store) <= 4
    check_all(store)
    np.testing.assert_array_equal(held, stored("0-a", 1, 0).values)  # a slice keeps its pages
    assert not held.flags.writeable
    del held, store
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_parts_that_are_read_together_are_released_as_others(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ten_parts(tmp_path, kind, monkeypatch)
    names = [f"{i}-a" for i in range(10)]
    places = store.places(names)
    first, lengths = store.first_frames(places), np.array([1 + i % 3 for i in range(10)])
    for _ in range(2):
        for i, found in enumerate(store.values_of(places, first, lengths)):
            np.testing.assert_array_equal(found, stored(names[i], 1 + i % 3, i).values)
            assert found.flags.writeable  # not marked; the pages are read-only all the same
        del found
        assert num_mapped(store) <= 4
    one = store.parts[0]
    held = one.unmarked_values
    assert held is one.unmarked_values and held is not one.values  # made once per mapping
    check_all(store)
    assert one.unmarked_values is not held
    np.testing.assert_array_equal(one.unmarked_values, held)


def test_a_tensor_of_an_unmarked_array_keeps_its_pages(tmp_path: Path, kind: str) -> None:
    store = make_parts(tmp_path, 1, kind)
    with torch_warns_always(), pytest.warns(UserWarning, match="not writable"):  # the control
        torch.from_numpy(store["0-a"])
    with torch_warns_always():
        tensor = torch.from_numpy(mapped.unmarked(store["0-a"]))
    assert tensor.data_ptr() == store["0-a"].ctypes.data and not store["0-a"].flags.writeable
    assert len(torch.from_numpy(mapped.unmarked(store["0-a"][:0]))) == 0
    del store
    gc.collect()
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    np.testing.assert_array_equal(tensor.numpy(), stored("0-a", 1, 0).values)
    del tensor
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_recently_used_arrays_are_released_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAX_MAPPED", 4)
    store = make_parts(tmp_path, 12, "hdf5")
    opened: list[Path] = []
    plain = mapped.MappedArray._open

    def counted(self: mapped.MappedArray) -> Any:
        opened.append(self.file)
        return plain(self)

    monkeypatch.setattr(mapped.MappedArray, "_open", counted)
    for i in range(1, 12):
        store["0-a"], store[f"{i}-a"]
    assert len(opened) <= 14 and len(set(opened)) == 12


def test_threads_read_while_parts_are_released(
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mapped, "MAX_MAPPED", 2)
    store = make_parts(tmp_path, 12, kind)

    def read(seed: int) -> bool:
        names = sorted(store) * 20
        random.Random(seed).shuffle(names)
        return all(np.isfinite(store.check(name)).all() for name in names)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_a_forked_child_reads_though_a_thread_was_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAX_MAPPED", 2)
    store = make_parts(tmp_path, 6, "hdf5")
    check_all(store)
    locked, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with mapped._lock:
            locked.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = multiprocessing.get_context("fork").Process(target=check_all, args=(store,))
            child.start()
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
        leave.set()
        thread.join()
    assert check_all(store) == 12


def test_a_full_address_space_releases_other_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_parts(tmp_path, 4, "hdf5")
    plain = mapped.MappedArray._open

    def one_at_a_time(self: mapped.MappedArray) -> Any:
        if num_mapped(store):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return plain(self)

    monkeypatch.setattr(mapped.MappedArray, "_open", one_at_a_time)
    assert check_all(store) == 8


def test_a_part_replaced_under_its_name_is_opened_anew(tmp_path: Path, kind: str) -> None:
    store = make_parts(tmp_path, 1, kind)
    (path,) = parts(store.info)
    path.rename(tmp_path / "gone")
    write(store.info, [stored("other", 900, 7), stored("0-b", 2, 0), stored("0-a", 1, 0)], kind=kind)
    parts(store.info)[0].rename(path)
    np.testing.assert_array_equal(store["0-a"], stored("0-a", 1, 0).values)
    assert len(store["other"]) == 900
