"""Index of a features folder: which stores a selector matches."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_store import IDENTITY, make_store

from features.command_lines import DataPlace
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.store.identity import create_store
from features.store.index import damaged_stores, features_folder, list_stores, select_store


def select(folder: Path, text: str | None, path: Path | None = None) -> Path:
    selector = parse_selector(text, "audio") if text else None
    return select_store(DataPlace(Path("data"), folder), "audio", selector, path).path


def test_a_bare_name_means_the_default_model_where_it_is_extracted(tmp_path: Path) -> None:
    """With the store of another checkpoint beside it, a bare name was called ambiguous."""
    identity = replace(IDENTITY, modality="text", encoder="phobert", sample_rate=None)
    default = create_store(tmp_path, identity, {"model": "vinai/phobert-base", "model_name": "phobert-base"}, "b")
    other = create_store(tmp_path, replace(identity, weights_sha256="1"), {"model": "/exp1", "model_name": "exp1"}, "e")
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
    with pytest.raises(InputError, match=r"the most similar one is .*-L4-.* with layer 4, wanted 5"):
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
    with pytest.raises(InputError, match=rf"ignored: {bad.path}/store.json must describe a feature store"):
        select(tmp_path, "whisper@5")
