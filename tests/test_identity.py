"""Identity of a store: it alone decides the store, and its JSON is checked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_store import IDENTITY, PROVENANCE, make_store

from features.canonical import canonical_json, differing_fields
from features.errors import InputError
from features.store.identity import StoreIdentity, create_store
from features.store.reader import FeatureStore


def test_the_identity_alone_decides_the_store(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    assert info.path == tmp_path / "audio" / f"whisper-tiny-L4-{IDENTITY.hash}"
    reordered = dict(reversed(IDENTITY.as_json().items()))
    again = create_store(tmp_path, StoreIdentity.from_json(reordered), {"selector": "x"}, "renamed")
    assert again.path == info.path and again.provenance == PROVENANCE
    assert make_store(tmp_path, layer=5).path != info.path
    assert canonical_json({"b": 1, "a": "ừ"}) == '{"a":"ừ","b":1}'
    changed = replace(IDENTITY, config={"mode": "trimmed"})
    assert differing_fields(IDENTITY.as_json(), changed.as_json()) == {"config.mode": ("30s", "trimmed")}


def test_folders_that_are_not_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"but .*store\.json does not exist"):
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


def test_the_json_of_an_identity_is_read_back() -> None:
    text = replace(IDENTITY, modality="text", sample_rate=None)
    assert "sample_rate" not in text.as_json() and IDENTITY.as_json()["sample_rate"] == 16_000
    for identity in (IDENTITY, text):
        again = StoreIdentity.from_json(json.loads(json.dumps(identity.as_json())))
        assert again == identity and again.hash == identity.hash
    assert IDENTITY.duration_s(8_000) == 0.5
    with pytest.raises(ValueError, match="inputs must be audio to have a duration, found text"):
        text.duration_s(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": 1}, "the identity must have the keys"),
        ({"modality": "text"}, "the identity must have the keys"),
        (
            {"modality": "video", "sample_rate": 1},
            "the identity must have the keys|modality must be one of audio, text",
        ),
        ({"store_dtype": "fp8"}, "store_dtype must be one of fp16, fp32, found 'fp8'"),
        ({"dim": True}, "dim must be of type int, found True"),
        ({"layer": None}, "layer must be of type int or str, found None"),
    ],
)
def test_an_invalid_identity_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreIdentity.from_json(IDENTITY.as_json() | change)
