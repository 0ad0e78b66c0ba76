"""FeatureStore: what is written is what is read, in each format, and damaged parts are named."""

import json
import multiprocessing
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import checked, damage, make_store, other_than, parts, stored, values_file, write

from features.errors import InputError
from features.store import open_parts
from features.store.identity import StoreInfo
from features.store.maintenance import compact, convert, verify
from features.store.part import StoredUtterance, read_part
from features.store.part_files import SUFFIXES, remove
from features.store.part_writer import write_part
from features.store.reader import FeatureStore

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.dictionaries(NAMES, st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=4),
    dtype=st.sampled_from(["fp16", "fp32"]),
    kinds=st.lists(st.sampled_from(sorted(SUFFIXES)), min_size=4, max_size=4),
)
def test_what_is_written_is_what_is_read(
    parts: list[dict[str, int]], dtype: str, kinds: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    info = make_store(tmp_path_factory.mktemp("stores"), store_dtype=dtype)
    numpy_type = np.float16 if dtype == "fp16" else np.float32
    expected: dict[str, StoredUtterance] = {}
    for generation, lengths in enumerate(parts):
        utterances = [stored(name, length, generation) for name, length in lengths.items()]
        utterances = [StoredUtterance(r.utterance_id, r.values.astype(numpy_type), *inputs_of(r)) for r in utterances]
        write(info, utterances, generation, kinds[generation])
        expected |= {r.utterance_id: r for r in utterances}
    for store in (FeatureStore(info.path), pickle.loads(pickle.dumps(FeatureStore(info.path)))):
        assert set(store) == set(expected)
        for name, wanted in expected.items():
            np.testing.assert_array_equal(store[name], wanted.values)
            found = store.utterance_info(name)
            assert (found.num_inputs, found.input_sha256, found.source) == inputs_of(wanted)
            np.testing.assert_array_equal(store.check(name), wanted.values)


def inputs_of(r: StoredUtterance) -> tuple[int, str, str]:
    return r.num_inputs, r.input_sha256, r.source


def test_parts_can_be_read_by_hand(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    utterances = [stored("a", 2), stored("bừ", 0), stored("c", 1200)]
    write(info, utterances, kind=kind)
    (path,) = parts(info)
    file: Any = h5py.File(path) if kind == "hdf5" else zarr.open_group(path, mode="r")
    offsets = file["offsets"][:]
    for i, expected in enumerate(utterances):
        np.testing.assert_array_equal(file["values"][offsets[i] : offsets[i + 1]], expected.values)
    assert file["num_samples"][:].tolist() == [640, 0, 384000]
    ids = file["utterance_id"][:].tolist()
    assert [name.decode() if isinstance(name, bytes) else name for name in ids] == ["a", "bừ", "c"]
    assert file.attrs["generation"] == 0
    if kind == "hdf5":
        assert file["values"].chunks is None and file["values"].compression is None
        file.close()
    else:
        assert file["values"].chunks == (512, 3) and file["values"].shards == (1536, 3)


def test_chunks_of_zeros_and_odd_ends_are_mapped_too(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    zeros = StoredUtterance("zeros", np.zeros((1500, 3), np.float16), 1, "", "{}")
    write(info, [zeros, stored("one", 1), stored("none", 0)], kind=kind)
    store = FeatureStore(info.path)
    for expected in (zeros, stored("one", 1), stored("none", 0)):
        np.testing.assert_array_equal(store.check(expected.utterance_id), expected.values)
    write(info, [stored("empty", 0)], 1, kind)
    assert FeatureStore(info.path).check("empty").shape == (0, 3)


def test_the_highest_generation_counts(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 5)], 1, "zarr")
    write(info, [stored("a", 2), stored("b", 3)], 0)
    store = FeatureStore(info.path)
    assert len(store["a"]) == 5 and len(store["b"]) == 3


def test_a_cut_part_is_named_and_never_mapped(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2000)], kind=kind)
    (path,) = parts(info)
    file = values_file(path)
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        if kind == "hdf5" and size == len(content) - 1 and _whole(info):
            continue  # the last byte belongs to no dataset
        with pytest.raises(InputError, match=path.name):
            FeatureStore(info.path)


def _whole(info: StoreInfo) -> bool:
    return verify(info.path, False, lambda _: None).faults == []


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.sampled_from(sorted(SUFFIXES)))
def test_no_flipped_bit_is_read_as_numbers(
    place: float, bit: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    info = make_store(tmp_path_factory.mktemp("stores"))
    utterances = [stored("a", 3), stored("b", 0), stored("c", 7)]
    write(info, utterances, kind=kind)
    (path,) = parts(info)
    files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    file = files[int(place * len(files))]
    content = bytearray(file.read_bytes())
    content[int(place * 7919 % 1 * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        store = FeatureStore(info.path)
        found = {name: (store.check(name).tobytes(), store.utterance_info(name)) for name in store}
    except InputError as error:
        assert re.search(path.name, str(error))  # noqa: PT017
        return
    expected = {r.utterance_id: (r.values.tobytes(), inputs_of(r)) for r in utterances}
    assert {n: (v, (i.num_inputs, i.input_sha256, i.source)) for n, (v, i) in found.items()} == expected


def test_flipped_bits_of_values_are_found_by_their_crc(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 20), stored("b", 20, 1)], kind=kind)
    (path,) = parts(info)
    damage(path, stored("a", 20).values[3])
    store = FeatureStore(info.path)
    store.check("b")
    with pytest.raises(InputError, match="features of 'a' whose crc32 differs from the stored one"):
        store.check("a")


def test_a_part_of_another_width_is_refused(tmp_path: Path, kind: str) -> None:
    info, other = make_store(tmp_path), make_store(tmp_path, dim=4)
    write_part(info.path, "audio", [StoredUtterance("a", np.zeros((2, 4), np.float16), 1, "", "{}")], 0, kind, "t")
    assert other.path != info.path
    with pytest.raises(InputError, match="found: features of 4 x float16, not of 3 x float16"):
        FeatureStore(info.path)


def test_a_file_that_is_not_a_part_is_named(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    path = info.path / f"part-00000000{SUFFIXES[kind]}"
    if kind == "hdf5":
        path.write_text("not HDF5")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=rf"{path.name} must be an undamaged part .*`mervn store verify"):
        FeatureStore(info.path)


def test_every_utterance_is_found_while_parts_are_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    for i in range(5):
        write(info, [stored(str(i), 3, i)])
    early = FeatureStore(info.path)

    def compacted_first(path: Path) -> Any:
        monkeypatch.setattr("features.store.open_parts.read_part", read_part)
        compact(info.path)
        return read_part(path)

    monkeypatch.setattr("features.store.open_parts.read_part", compacted_first)
    late = FeatureStore(info.path)
    for store in (early, late):
        assert sorted(store) == ["0", "1", "2", "3", "4"]
        np.testing.assert_array_equal(store.check("3"), stored("3", 3, 3).values)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_is_written(tmp_path: Path, method: str) -> None:
    stores = []
    for kind in SUFFIXES:
        info = make_store(tmp_path / kind)
        write(info, [stored(str(i), i, i) for i in range(6)], kind=kind)
        stores.append(FeatureStore(info.path))
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        with context.Pool(2) as pool:
            assert pool.map(checked, stores * 3, chunksize=1) == list(map(checked, stores * 3))
            pool.close()  # not by SIGTERM, for which an imported library may have set a handler
            pool.join()


def test_a_reader_finds_the_new_parts_when_it_first_reads(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    for i in range(3):
        write(info, [stored(str(i), 3, i)], kind=kind)
    early = FeatureStore(info.path)
    convert(info.path, other_than(kind), lambda _: None)
    assert early.utterance_info("0").input_sha256 == "sha-0"
    np.testing.assert_array_equal(early["2"], stored("2", 3, 2).values)
    assert {part.path for part in early.parts} == set(parts(info))


@pytest.mark.parametrize("num_mapped", [0, 2, 12])
def test_many_utterances_are_read_at_once_also_if_their_parts_are_replaced(
    tmp_path: Path, kind: str, num_mapped: int
) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [stored(f"{i}{j}", 3 * j, i) for j in range(3)], kind=kind)
    store, order = FeatureStore(info.path), np.random.default_rng(0).permutation(12)
    places = store.places([f"{i // 3}{i % 3}" for i in order])
    first, lengths = store.first_frames(places), 3 * (order % 3)
    assert first.any() and store.values_of(places[:0], first[:0], lengths[:0]) == []
    store.values_of(places[:num_mapped], first[:num_mapped], lengths[:num_mapped])  # these parts stay mapped
    compact(info.path)
    for found, i in zip(store.values_of(places, first, lengths), order, strict=True):
        np.testing.assert_array_equal(found, stored(f"{i // 3}{i % 3}", 3 * (i % 3), i // 3).values)
    assert (None in store._opened.table.parts) == (num_mapped < 12)  # the control: parts had vanished


def test_a_refresh_opens_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [stored(str(i), 3, i)])
    store = FeatureStore(info.path)
    opened: list[Path] = []
    plain = open_parts.read_part

    def counted(path: Path) -> Any:
        opened.append(path)
        if len(opened) == 1:
            remove(path)  # it has gone before it could be read; the others are not opened again
        return plain(path)

    monkeypatch.setattr(open_parts, "read_part", counted)
    for i in (4, 5):
        write(info, [stored(str(i), 3, i)])
    added = store.refresh()
    assert len(opened) == 2 and len(added) == 1 and len(store) == 5
    assert store.refresh() == [] and len(opened) == 2


def test_utterances_whose_part_is_set_aside_are_named(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 20)], kind=kind)
    write(info, [stored("b", 20, 1)], kind=kind)
    store = FeatureStore(info.path)
    (bad,) = [part.path for part in store.parts if part.utterance_ids == ["a"]]
    damage(bad, stored("a", 20).values[7])
    verify(info.path, True, lambda _: None)
    with pytest.raises(InputError, match="no longer holds 'a': its part was set aside or removed; extract it again"):
        store["a"]
    assert list(store) == ["b"] and len(store["b"]) == 20


@pytest.mark.parametrize("cut", range(1, 12))
def test_sources_may_be_cut_short_anywhere(tmp_path: Path, cut: int) -> None:
    """Cut inside a character of an id, the file was a traceback of everything that reads the store."""
    info = make_store(tmp_path)
    write(info, [stored("a\u2028b", 2), stored("ừừừ", 2)])
    store = FeatureStore(info.path)
    store.remember_sources({"a\u2028b": '{"path": "first.wav"}'})
    file = info.path / "sources.jsonl"
    file.write_bytes(file.read_bytes() + '{"utterance_id": "ừừừ"'.encode()[:-cut])
    store = FeatureStore(info.path)
    assert json.loads(store.utterance_info("ừừừ").source) == {"path": "ừừừ.wav"}
    assert store.utterance_info("a\u2028b").source == '{"path": "first.wav"}'
    store.remember_sources({"ừừừ": '{"path": "second.wav"}'})
    assert FeatureStore(info.path).utterance_info("ừừừ").source == '{"path": "second.wav"}'


def test_sources_removed_by_a_compaction_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file existed when it was looked for, and was removed before it was read."""
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])
    store = FeatureStore(info.path)
    store.remember_sources({"a": '{"path": "moved.wav"}'})
    plain_read = Path.read_bytes

    def compacted_first(path: Path) -> bytes:
        if path.name == "sources.jsonl" and path.exists():
            path.unlink()
        return plain_read(path)

    monkeypatch.setattr(Path, "read_bytes", compacted_first)
    assert json.loads(store.utterance_info("a").source) == {"path": "a.wav"}
