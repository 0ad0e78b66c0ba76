"""What is written is what is read; what is damaged is named."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.encoders.selector import parse_selector
from features.errors import InputError
from features.store.hdf5 import Row, write_part
from features.store.identity import StoreInfo, canonical_json, create_store, differing_fields, identity_hash
from features.store.index import features_folder, list_stores, select_store
from features.store.reader import FeatureStore
from features.store.writer import PART_ROWS, StoreWriter

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
PROVENANCE = {"selector": "whisper=/m/tiny@4", "model": "/m/tiny", "model_name": "tiny", "weights": "pretrained"}


def make_store(folder: Path, **changes: Any) -> StoreInfo:
    return create_store(folder, {**IDENTITY, **changes}, PROVENANCE, "tiny")


def row(name: str, length: int, seed: int = 0) -> Row:
    values = np.random.default_rng((seed, length)).standard_normal((length, 3)).astype(np.float16)
    return Row(name, values, length * 320, f"sha-{name}", json.dumps({"path": f"{name}.wav"}))


def write(info: StoreInfo, rows: Sequence[Row], generation: int = 0) -> None:
    with StoreWriter(info, generation, set()) as writer:
        writer.add(rows)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.dictionaries(NAMES, st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=4),
    dtype=st.sampled_from(["fp16", "fp32"]),
)
def test_what_is_written_is_what_is_read(
    parts: list[dict[str, int]], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    info = make_store(tmp_path_factory.mktemp("stores"), store_dtype=dtype)
    numpy_type = np.float16 if dtype == "fp16" else np.float32
    expected: dict[str, Row] = {}
    for generation, lengths in enumerate(parts):
        rows = [row(name, length, generation) for name, length in lengths.items()]
        rows = [Row(r.utterance_id, r.values.astype(numpy_type), *_rest(r)) for r in rows]
        write(info, rows, generation)
        expected |= {r.utterance_id: r for r in rows}
    for store in (FeatureStore(info.path), pickle.loads(pickle.dumps(FeatureStore(info.path)))):
        assert set(store) == set(expected)
        for name, wanted in expected.items():
            np.testing.assert_array_equal(store[name], wanted.values)
            found = store.row_info(name)
            assert (found.num_inputs, found.input_sha256, found.source) == _rest(wanted)
            store.check(name)


def _rest(r: Row) -> tuple[int, str, str]:
    return r.num_inputs, r.input_sha256, r.source


def test_parts_can_be_read_by_hand(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    rows = [row("a", 2), row("b", 0), row("c", 4)]
    write(info, rows)
    (path,) = info.path.glob("part-*.h5")
    with h5py.File(path) as file:
        offsets = file["offsets"][:]
        for i, expected in enumerate(rows):
            np.testing.assert_array_equal(file["values"][offsets[i] : offsets[i + 1]], expected.values)
        assert file["num_samples"][:].tolist() == [640, 0, 1280]
        assert file["values"].chunks is None and file["values"].compression is None
        assert file.attrs["generation"] == 0


def test_a_part_closes_after_256_utterances_and_the_same_rows_are_one_file(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    rows = [row(str(i), 1) for i in range(PART_ROWS)]
    for _ in range(2):
        with StoreWriter(info, 0, set()) as writer:
            for start in range(0, PART_ROWS, 32):
                writer.add(rows[start : start + 32])
            assert len(list(info.path.glob("part-*.h5"))) == 1
    assert len(FeatureStore(info.path)) == PART_ROWS


def test_the_highest_generation_counts(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 5)], 1)
    write(info, [row("a", 2), row("b", 3)], 0)
    store = FeatureStore(info.path)
    assert len(store["a"]) == 5 and len(store["b"]) == 3


def test_rows_are_committed_when_the_work_fails(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    with pytest.raises(KeyboardInterrupt), StoreWriter(info, 0, set()) as writer:
        writer.add([row("a", 2)])
        raise KeyboardInterrupt
    assert list(FeatureStore(info.path)) == ["a"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("features.store.hdf5._write", full)
    with pytest.raises(InputError, match="the disk is full; what was finished before is kept"):
        write(info, [row("b", 2)])
    assert sorted(path.suffix for path in info.path.iterdir()) == [".h5", ".json"]
    assert list(FeatureStore(info.path)) == ["a"]


def test_a_cut_part_is_named_and_never_mapped(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 2000)])
    (path,) = info.path.glob("part-*.h5")
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=path.name):
            FeatureStore(info.path)


def test_flipped_bits_are_found_by_their_crc(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [row("a", 20), row("b", 20)])
    (path,) = info.path.glob("part-*.h5")
    with h5py.File(path, "r+") as file:
        file["values"][3, 1] += 1
    store = FeatureStore(info.path)
    store.check("b")
    with pytest.raises(InputError, match=r"'a' must have the crc32"):
        store.check("a")


def test_a_foreign_part_is_refused(tmp_path: Path) -> None:
    info, other = make_store(tmp_path), make_store(tmp_path, dim=4)
    write_part(info.path, "audio", [Row("a", np.zeros((2, 4), np.float16), 1, "", "{}")], 0)
    assert other.path != info.path
    with pytest.raises(InputError, match="rows must be 3 x float16, found 4 x float16: a foreign part"):
        FeatureStore(info.path)


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
    with pytest.raises(InputError, match="must have schema 1, found 9"):
        FeatureStore(info.path)


def select(folder: Path, text: str | None, path: Path | None = None) -> Path:
    selector = parse_selector(text, "audio") if text else None
    return select_store(folder, "audio", selector, path, Path("data")).path


def test_a_selector_filters_the_stores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mervn extract --features-dir .* --audio-encoder whisper@4"):
        select(tmp_path, "whisper@4")
    with pytest.raises(InputError, match="where ENCODER is one of data2vec, fourier2vec, hubert"):
        select(tmp_path, None)
    first = make_store(tmp_path)
    for text in (None, "whisper", "whisper@4", "whisper=tiny", "whisper=/elsewhere/tiny@4", "whisper=hub/tiny"):
        assert select(tmp_path, text) == first.path
    for text in ("whisper@5", "whisper=small", "fourier2vec"):
        with pytest.raises(InputError, match=f"there is no audio store of {text}"):
            select(tmp_path, text)
    with pytest.raises(InputError, match=r"the nearest is .*-L4-.* with layer 4, wanted 5"):
        select(tmp_path, "whisper=tiny@5")
    second = make_store(tmp_path, store_dtype="fp32")
    with pytest.raises(InputError, match="several audio stores match whisper(.|\n)*store_dtype=fp(16|32) .first: fp"):
        select(tmp_path, "whisper")
    assert select(tmp_path, None, second.path) == second.path
    assert len(list_stores(tmp_path)) == 2
    with pytest.raises(InputError, match="--text-store must be a store of text, found audio"):
        select_store(tmp_path, "text", None, first.path, Path("data"))


def test_the_features_folder_is_given_or_set_or_beside_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features_folder(None, Path("data")) == Path("data/stores")
    monkeypatch.setenv("MERVN_FEATURES", "/features")
    assert features_folder(None, Path("data")) == Path("/features")
    assert features_folder(Path("given"), Path("data")) == Path("given")
