"""Tiny feature stores for the tests."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.store.identity import StoreIdentity, StoreInfo, create_store
from features.store.part import StoredUtterance
from features.store.part_files import SUFFIXES, part_paths
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter

IDENTITY = StoreIdentity(
    modality="audio",
    encoder="whisper",
    weights_sha256="0" * 64,
    config={"mode": "30s"},
    layer=4,
    dim=3,
    encoder_precision="fp32",
    store_dtype="fp16",
    numerics_version=1,
    sample_rate=16_000,
)
PROVENANCE = {"selector": "whisper=/m/tiny@4", "model": "/m/tiny", "model_name": "tiny", "weights": "pretrained",
              "models": [{"model": "/m/tiny", "commit": None, "fingerprint": "f" * 32}]}  # fmt: skip
TEXT_IDENTITY = replace(IDENTITY, modality="text", encoder="e", layer="last", dim=2, sample_rate=None)


def make_store(folder: Path, **changes: Any) -> StoreInfo:
    """Create an empty store of IDENTITY with some fields changed."""
    return create_store(folder, replace(IDENTITY, **changes), PROVENANCE, "tiny")


def stored(name: str, length: int, seed: int = 0) -> StoredUtterance:
    """Return random features (length, 3) of an utterance."""
    values = np.random.default_rng((seed, length)).standard_normal((length, 3)).astype(np.float16)
    return StoredUtterance(name, values, length * 320, f"sha-{name}", json.dumps({"path": f"{name}.wav"}))


def write(info: StoreInfo, utterances: Sequence[StoredUtterance], generation: int = 0, kind: str = "hdf5") -> None:
    """Write one part."""
    with StoreWriter(info, generation, kind) as writer:
        writer.add(utterances)


def parts(info: StoreInfo) -> list[Path]:
    """Return the parts of a store."""
    return part_paths(info.path)


def values_file(part: Path) -> Path:
    """Return the file that holds a part's values."""
    return part / "values" / "c" / "0" / "0" if part.is_dir() else part


def damage(part: Path, value: np.ndarray[Any, Any]) -> None:
    """Flip a bit of a stored frame."""
    file = values_file(part)
    content = bytearray(file.read_bytes())
    at = content.index(value.tobytes())
    content[at] ^= 1
    file.write_bytes(content)


def contents(info: StoreInfo) -> dict[str, bytes]:
    """Return the bytes of each utterance's features."""
    store = FeatureStore(info.path)
    return {name: store[name].tobytes() for name in store}


def checked(store: FeatureStore) -> dict[str, bytes]:
    """Return the bytes of each utterance's features, whose checksums are compared.

    It is here because this file is imported faster than one of tests, by processes that are not forks.
    """
    return {name: store.check(name).tobytes() for name in sorted(store)}


def other_than(kind: str) -> str:
    """Return the other format."""
    return next(name for name in SUFFIXES if name != kind)
