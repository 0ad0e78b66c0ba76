"""What is written is what is read, in either format; what is damaged is named."""

import json
import multiprocessing
import pickle
import re
import resource
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from features.canonical import canonical_json, differing_fields
from features.command_lines import DataPlace
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.store.claims import Claims
from features.store.identity import StoreInfo, create_store, identity_hash
from features.store.index import features_folder, list_stores, select_store
from features.store.maintenance import compact, convert, remove_store, verify
from features.store.part import SUFFIXES, StoredUtterance, format_of, part_paths, read_part, write_part
from features.store.reader import FeatureStore
from features.store.writer import PART_UTTERANCES, StoreWriter

IDENTITY = {
    "modality": "audio",
    "encoder": "whisper",
    "weights_sha256": "0" * 64,
    "config": {"mode": "30s"},
    "layer": 4,
    "dim": 3,
    "store_dtype": "fp16",
    "sample_rate": 16_000,
}
PROVENANCE = {"selector": "whisper=/m/tiny@4", "model": "/m/tiny", "model_name": "tiny", "weights": "pretrained",
              "models": [{"model": "/m/tiny", "commit": None, "fingerprint": "f" * 32}]}  # fmt: skip


def make_store(folder: Path, **changes: Any) -> StoreInfo:
    return create_store(folder, {**IDENTITY, **changes}, PROVENANCE, "tiny")


def row(name: str, length: int, seed: int = 0) -> StoredUtterance:
    values = np.random.default_rng((seed, length)).standard_normal((length, 3)).astype(np.float16)
    return StoredUtterance(name, values, length * 320, f"sha-{name}", json.dumps({"path": f"{name}.wav"}))


def write(info: StoreInfo, rows: Sequence[StoredUtterance], generation: int = 0, kind: str = "hdf5") -> None:
    with StoreWriter(info, generation, kind) as writer:
        writer.add(rows)


def parts(info: StoreInfo) -> list[Path]:
    return part_paths(info.path)


def values_file(part: Path) -> Path:
    """Return the file that holds a part's values."""
    return part / "values" / "c" / "0" / "0" if part.is_dir() else part


def damage(part: Path, value: np.ndarray[Any, Any]) -> None:
    """Flip a bit of some stored row."""
    file = values_file(part)
    content = bytearray(file.read_bytes())
    at = content.index(value.tobytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.fixture(params=sorted(SUFFIXES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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
        rows = [row(name, length, generation) for name, length in lengths.items()]
        rows = [StoredUtterance(r.utterance_id, r.values.astype(numpy_type), *_rest(r)) for r in rows]
        write(info, rows, generation, kinds[generation])
        expected |= {r.utterance_id: r for r in rows}
    for store in (FeatureStore(info.path), pickle.loads(pickle.dumps(FeatureStore(info.path)))):
        assert set(store) == set(expected)
        for name, wanted in expected.items():
            np.testing.assert_array_equal(store[name], wanted.values)
            found = store.utterance_info(name)
            assert (found.num_inputs, found.input_sha256, found.source) == _rest(wanted)
            np.testing.assert_array_equal(store.check(name), wanted.values)


def _rest(r: StoredUtterance) -> tuple[int, str, str]:
    return r.num_inputs, r.input_sha256, r.source


def test_parts_can_be_read_by_hand(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    rows = [row("a", 2), row("bừ", 0), row("c", 1200)]
    write(info, rows, kind=kind)
    (path,) = parts(info)
    file: Any = h5py.File(path) if kind == "hdf5" else zarr.open_group(path, mode="r")
    offsets = file["offsets"][:]
    for i, expected in enumerate(rows):
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
    write(info, [zeros, row("one", 1), row("none", 0)], kind=kind)
    store = FeatureStore(info.path)
    for expected in (zeros, row("one", 1), row("none", 0)):
        np.testing.assert_array_equal(store.check(expected.utterance_id), expected.values)
    write(info, [row("empty", 0)], 1, kind)
    assert FeatureStore(info.path).check("empty").shape == (0, 3)


def test_a_part_closes_after_256_utterances_and_the_same_rows_are_one_part(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    rows = [row(str(i), 1) for i in range(PART_UTTERANCES)]
    for _ in range(2):
        with StoreWriter(info, 0, kind) as writer:
            for start in range(0, PART_UTTERANCES, 32):
                writer.add(rows[start : start + 32])
            assert len(parts(info)) == 1
    assert len(FeatureStore(info.path)) == PART_UTTERANCES
    assert not list(info.path.glob(".*"))


def test_the_highest_generation_counts(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 5)], 1, "zarr")
    write(info, [row("a", 2), row("b", 3)], 0)
    store = FeatureStore(info.path)
    assert len(store["a"]) == 5 and len(store["b"]) == 3


def test_rows_are_committed_when_the_work_fails(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    with pytest.raises(KeyboardInterrupt), StoreWriter(info) as writer:
        writer.add([row("a", 2)])
        raise KeyboardInterrupt
    assert list(FeatureStore(info.path)) == ["a"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"features.store.{kind}.write", full)
    with pytest.raises(InputError, match="the disk is full; what was finished before is kept"):
        write(info, [row("b", 2)], kind=kind)
    assert sorted(path.suffix for path in info.path.iterdir()) == [".h5", ".json"]
    assert list(FeatureStore(info.path)) == ["a"]


@pytest.mark.parametrize("limit", [0, 1000, 4500])
def test_a_full_disk_is_told_cleanly_wherever_it_strikes(tmp_path: Path, kind: str, limit: int) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match="the disk is full; what was finished before is kept"):
            write(info, [row("b", 800)], kind=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(FeatureStore(info.path)) == ["a"] and len(list(info.path.iterdir())) == 2


def test_a_cut_part_is_named_and_never_mapped(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2000)], kind=kind)
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
    rows = [row("a", 3), row("b", 0), row("c", 7)]
    write(info, rows, kind=kind)
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
    expected = {r.utterance_id: (r.values.tobytes(), _rest(r)) for r in rows}
    assert {n: (v, (i.num_inputs, i.input_sha256, i.source)) for n, (v, i) in found.items()} == expected


def test_flipped_bits_of_values_are_found_by_their_crc(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 20), row("b", 20, 1)], kind=kind)
    (path,) = parts(info)
    damage(path, row("a", 20).values[3])
    store = FeatureStore(info.path)
    store.check("b")
    with pytest.raises(InputError, match="rows of 'a' with another crc32"):
        store.check("a")


def test_a_foreign_part_is_refused(tmp_path: Path, kind: str) -> None:
    info, other = make_store(tmp_path), make_store(tmp_path, dim=4)
    write_part(info.path, "audio", [StoredUtterance("a", np.zeros((2, 4), np.float16), 1, "", "{}")], 0, kind, "t")
    assert other.path != info.path
    with pytest.raises(InputError, match="found: rows of 4 x float16, not of 3 x float16"):
        FeatureStore(info.path)


def test_what_is_no_part_is_named(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    path = info.path / f"part-00000000{SUFFIXES[kind]}"
    if kind == "hdf5":
        path.write_text("not HDF5")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=rf"{path.name} must be a whole part .*`mervn store verify"):
        FeatureStore(info.path)


def test_verify_names_damaged_parts_and_sets_them_aside(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 20)], kind=kind)
    write(info, [row("b", 20, 1)], kind=kind)
    found = verify(info.path, False, lambda _: None)
    assert (found.whole, found.faults) == (2, [])
    (bad,) = [path for path in parts(info) if read_part(path).utterance_ids == ["a"]]
    damage(bad, row("a", 20).values[7])
    found = verify(info.path, False, lambda _: None)
    (fault,) = found.faults
    assert (found.whole, fault.path, fault.set_aside) == (1, bad, None) and "'a'" in fault.why
    (fault,) = verify(info.path, True, lambda _: None).faults
    assert fault.set_aside is not None and fault.set_aside.exists() and not bad.exists()
    assert list(FeatureStore(info.path)) == ["b"]


def test_compacting_keeps_what_counts_and_drops_the_rest(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    for generation, lengths in enumerate([{"a": 1, "b": 2}, {"b": 3, "c": 0}, {"d": 4}]):
        write(info, [row(name, size, generation) for name, size in lengths.items()], generation, kind)
    store = FeatureStore(info.path)
    store.remember_sources({"a": '{"path": "moved.wav"}'})
    before = {name: (store[name].tobytes(), store.utterance_info(name)) for name in store}
    done = compact(info.path)
    assert (done.parts_before, done.parts_after, done.superseded) == (3, 3, 1)  # one a generation
    again = FeatureStore(info.path)
    assert {name: (again[name].tobytes(), again.utterance_info(name)) for name in again} == before
    assert again.describe()["superseded"] == 0 and not (info.path / "sources.jsonl").exists()
    assert before["a"][1].source == '{"path": "moved.wav"}'
    assert compact(info.path).parts_after == 3


def contents(info: StoreInfo) -> dict[str, bytes]:
    store = FeatureStore(info.path)
    return {name: store[name].tobytes() for name in store}


def test_small_parts_become_full_ones(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    for i in range(PART_UTTERANCES + 20):
        write(info, [row(str(i), i % 3, i)])
    before = contents(info)
    assert compact(info.path).parts_after == 2 and contents(info) == before
    full = parts(info)
    assert compact(info.path).parts_after == 2 and parts(info) == full


def test_converting_there_and_back_changes_nothing(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 700), row("b", 0)], 2, kind)
    write(info, [row("c", 5)], 0, kind)
    store = FeatureStore(info.path)
    before = {name: (store[name].tobytes(), store.utterance_info(name)) for name in store}
    other = next(name for name in SUFFIXES if name != kind)
    assert convert(info.path, other, lambda _: None) == 2
    assert {format_of(path) for path in parts(info)} == {other}
    assert convert(info.path, kind, lambda _: None) == 2 and convert(info.path, kind, lambda _: None) == 0
    again = FeatureStore(info.path)
    assert {name: (again[name].tobytes(), again.utterance_info(name)) for name in again} == before


def test_damage_stops_a_conversion_before_anything_is_lost(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 20)])
    damage(parts(info)[0], row("a", 20).values[7])
    with pytest.raises(InputError, match="another crc32"):
        convert(info.path, "zarr", lambda _: None)
    assert [path.suffix for path in parts(info)] == [".h5"]


def test_a_reader_finds_every_row_while_parts_are_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    for i in range(5):
        write(info, [row(str(i), 3, i)])
    early = FeatureStore(info.path)

    def compacted_first(path: Path) -> Any:
        monkeypatch.setattr("features.store.reader.read_part", read_part)
        compact(info.path)
        return read_part(path)

    monkeypatch.setattr("features.store.reader.read_part", compacted_first)
    late = FeatureStore(info.path)
    for store in (early, late):
        assert sorted(store) == ["0", "1", "2", "3", "4"]
        np.testing.assert_array_equal(store.check("3"), row("3", 3, 3).values)


def test_a_removed_store_is_gone_but_not_while_it_is_written_to(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])
    with Claims([info.path]) as claims:
        assert claims.take("unit")
        with pytest.raises(InputError, match="is being written to by .*:[0-9]+"):
            remove_store(info.path)
    assert remove_store(info.path) == 1
    assert not info.path.exists()
    with pytest.raises(InputError, match=r"there is no .*store.json"):
        remove_store(info.path)


def _read_all(store: FeatureStore) -> dict[str, bytes]:
    return {name: store.check(name).tobytes() for name in sorted(store)}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_is_written(tmp_path: Path, kind: str, method: str) -> None:
    info = make_store(tmp_path)
    write(info, [row(str(i), i, i) for i in range(6)], kind=kind)
    store = FeatureStore(info.path)
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        with context.Pool(2) as pool:
            assert pool.map(_read_all, [store] * 3) == [_read_all(store)] * 3


def test_the_identity_alone_decides_the_store(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    assert info.path == tmp_path / "audio" / f"whisper-tiny-L4-{identity_hash(IDENTITY)}"
    again = create_store(tmp_path, dict(reversed(IDENTITY.items())), {"selector": "x"}, "renamed")
    assert again.path == info.path and again.provenance == PROVENANCE
    assert make_store(tmp_path, layer=5).path != info.path
    assert canonical_json({"b": 1, "a": "ừ"}) == '{"a":"ừ","b":1}'
    changed = {**IDENTITY, "config": {"mode": "trimmed"}}
    assert differing_fields(IDENTITY, changed) == {"config.mode": ("30s", "trimmed")}


def test_folders_that_are_no_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*store.json"):
        FeatureStore(tmp_path)
    (tmp_path / "store.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="must describe a feature store"):
        FeatureStore(tmp_path)
    info = make_store(tmp_path / "s")
    document = json.loads((info.path / "store.json").read_text())
    (info.path / "store.json").write_text(json.dumps({**document, "schema": 9}))
    with pytest.raises(InputError, match="must have schema 2, found 9"):
        FeatureStore(info.path)
    for key, value in (
        ("config", None),
        ("config", 5),
        ("layer", [1]),
        ("layer", None),
        ("encoder", {}),
        ("dim", True),
    ):
        edited = {**document, "identity": {**document["identity"], key: value}}
        (info.path / "store.json").write_text(json.dumps(edited))
        with pytest.raises(InputError, match=rf"store\.json must describe a feature store.*{key} must be"):
            FeatureStore(info.path)


def select(folder: Path, text: str | None, path: Path | None = None) -> Path:
    selector = parse_selector(text, "audio") if text else None
    return select_store(DataPlace(Path("data"), folder), "audio", selector, path).path


def test_a_bare_name_means_the_default_model_where_it_is_extracted(tmp_path: Path) -> None:
    """With the store of another checkpoint beside it, a bare name was called ambiguous."""
    identity = IDENTITY | {"modality": "text", "encoder": "phobert"}
    default = create_store(tmp_path, identity, {"model": "vinai/phobert-base", "model_name": "phobert-base"}, "b")
    other = create_store(tmp_path, identity | {"weights_sha256": "1"}, {"model": "/exp1", "model_name": "exp1"}, "e")
    place = DataPlace(Path("data"), tmp_path)

    def select(text: str) -> Path:
        return select_store(place, "text", parse_selector(text, "text"), None).path

    assert select("phobert") == default.path
    with pytest.warns(UserWarning, match="does not record the files of its model"):
        assert select("phobert=/exp1") == other.path


def test_a_selector_filters_the_stores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mervn extract --data data --features-dir .* --audio-encoder whisper@4"):
        select(tmp_path, "whisper@4")
    with pytest.raises(InputError, match="where ENCODER is one of data2vec, fourier2vec, hubert"):
        select(tmp_path, None)
    first = make_store(tmp_path)
    for text in (None, "whisper", "whisper@4", "whisper=/m/tiny", "whisper=/m/../m/tiny@4"):
        assert select(tmp_path, text) == first.path
    for text in ("whisper@5", "whisper=small", "whisper=tiny", "whisper=hub/tiny", "whisper=/x/tiny", "fourier2vec"):
        with pytest.raises(InputError, match=f"{text} is not extracted yet"):
            select(tmp_path, text)
    with pytest.raises(InputError, match=r"the nearest is .*-L4-.* with layer 4, wanted 5"):
        select(tmp_path, "whisper=/m/tiny@5")
    second = make_store(tmp_path, store_dtype="fp32")
    with pytest.raises(InputError, match="several audio stores match whisper(.|\n)*store_dtype=fp(16|32) .first: fp"):
        select(tmp_path, "whisper")
    assert select(tmp_path, None, second.path) == second.path
    assert len(list_stores(tmp_path)) == 2
    with pytest.raises(InputError, match="--text-store must be a store of text, found audio"):
        select_store(DataPlace(Path("data"), tmp_path), "text", None, first.path)


def test_the_features_folder_is_given_or_set_or_beside_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_folder(None, Path("data")) == Path("data/stores")
    monkeypatch.setenv("MERVN_FEATURES", "/features")
    assert features_folder(None, Path("data")) == Path("/features")
    assert features_folder(Path("given"), Path("data")) == Path("given")
