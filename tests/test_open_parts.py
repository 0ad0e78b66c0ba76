"""OpenParts: places, lengths and columns stay right while another process converts and compacts the parts."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_store import damage, make_store, other_than, parts, stored, write

from features.errors import InputError
from features.store.maintenance import compact, convert
from features.store.reader import FeatureStore


def test_columns_are_read_while_parts_are_converted(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [stored(f"{i}{letter}", i, i) for letter in "ab"], kind=kind)
    store = FeatureStore(info.path)
    ids = [f"{i}{letter}" for letter in "ba" for i in (2, 0, 3, 1)]
    places, found = store.places(ids), {}
    for position, one in store.utterance_infos(places):
        if not found:
            convert(info.path, other_than(kind), lambda _: None)
        assert position not in found
        found[position] = one
    fresh = FeatureStore(info.path)
    assert [found[position] for position in range(8)] == [fresh.utterance_info(name) for name in ids]
    inputs = store.inputs(places)  # old places
    for field in ("num_inputs", "crc32"):
        assert getattr(inputs, f"{field}").tolist() == [getattr(fresh.utterance_info(name), field) for name in ids]
    assert inputs.lengths.tolist() == [int(name[0]) for name in ids] and len(store.inputs(places[:0])) == 0
    assert [name.decode() for name in inputs.input_sha256.tolist()] == [f"sha-{name}" for name in ids]
    for place, name in zip(places.tolist(), ids, strict=True):
        np.testing.assert_array_equal(store.values(place), fresh[name])


def test_features_that_were_replaced_are_not_damaged(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 4)])
    store = FeatureStore(info.path)
    (place,) = store.places(["a"]).tolist()
    before = int(store.inputs(store.places(["a"])).crc32[0])
    write(info, [stored("a", 4, 1)], 1)
    compact(info.path)
    np.testing.assert_array_equal(store.checked(place, before), stored("a", 4, 1).values)
    damage(parts(info)[0], stored("a", 4, 1).values[2])
    with pytest.raises(InputError, match="features of 'a' whose crc32 differs from the stored one"):
        store.checked(place, before)


def test_threads_share_a_store_while_it_is_compacted_and_converted(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    names = list(map(str, range(40)))
    interval = sys.getswitchinterval()
    found: list[object] = []
    sys.setswitchinterval(1e-6)
    try:
        for generation in range(3):
            for i, name in enumerate(names):
                write(info, [stored(name, 1 + i % 5, i)], generation=generation)
            store, done = FeatureStore(info.path), threading.Event()
            expected = {name: store[name].tobytes() for name in names}

            def read(store: FeatureStore, expected: dict[str, bytes], done: threading.Event) -> None:
                while not done.is_set():
                    for name in names:
                        try:
                            assert store[name].tobytes() == expected[name]
                            store.refresh()
                        except (AssertionError, InputError, KeyError) as error:
                            found.append(error)

            with ThreadPoolExecutor(6) as pool:
                tasks = [pool.submit(read, store, expected, done) for _ in range(6)]
                compact(info.path)
                convert(info.path, other_than("hdf5"), lambda _: None)
                compact(info.path)
                done.set()
                for task in tasks:
                    task.result()
    finally:
        sys.setswitchinterval(interval)
    assert not found
