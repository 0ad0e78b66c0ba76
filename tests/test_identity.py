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
