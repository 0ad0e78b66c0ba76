"""What a store holds: the identity (everything that changes numbers), its hash and its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.canonical import canonical_json
from features.errors import InputError, UsageError

STORE_FILE = "store.json"
SCHEMA = 2


@dataclass(frozen=True)
class StoreInfo:
    """A store's folder, identity and, apart from it, provenance."""

    path: Path
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def modality(self) -> str:
        """`audio` or `text`."""
        return str(self.identity["modality"])

    @property
    def encoder(self) -> str:
        """The encoder's name in the registry."""
        return str(self.identity["encoder"])

    @property
    def hash(self) -> str:
        """The 8 hex of the identity."""
        return identity_hash(self.identity)


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the first 8 hex of the sha256 of the identity's canonical JSON in UTF-8."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:8]


def store_folder(features_dir: Path, identity: Mapping[str, Any], model_name: str) -> Path:
    """Return <features-dir>/<audio|text>/<name>-<model's base name>-L<layer>-<8 hex>."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name)
    name = f"{identity['encoder']}-{model}-L{identity['layer']}-{identity_hash(identity)}"
    return features_dir / str(identity["modality"]) / name


def find_identity(features_dir: Path, identity: Mapping[str, Any]) -> StoreInfo | None:
    """Return the store of exactly this identity, whatever name its model had when it was made."""
    for path in sorted((features_dir / str(identity["modality"])).glob(f"*-{identity_hash(identity)}")):
        if (path / STORE_FILE).is_file():
            info = read_store_info(path)
            if canonical_json(info.identity) == canonical_json(identity):
                return info
    return None


def create_store(
    features_dir: Path, identity: Mapping[str, Any], provenance: Mapping[str, Any], model_name: str
) -> StoreInfo:
    """Make the store of this identity, or return the one that is there."""
    info = find_identity(features_dir, identity)
    if info is None:
        info = StoreInfo(store_folder(features_dir, identity, model_name), identity, provenance)
        info.path.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "identity": dict(identity), "provenance": dict(provenance)}
        write_atomically(info.path / STORE_FILE, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return info


def read_store_info(path: Path) -> StoreInfo:
    """Read store.json of a store's folder; UsageError if it is no store, InputError if damaged or of another schema."""
    file = path / STORE_FILE
    try:
        document = json.loads(file.read_text("utf-8"))
        schema, identity, provenance = document["schema"], document["identity"], document["provenance"]
        _ = provenance.get("model_name")
        _check_identity(identity)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path} must be a feature store: there is no {file}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} must describe a feature store, but cannot be read: {error!r}") from error
    if schema != SCHEMA:
        raise InputError(f"{file} must have schema {SCHEMA}, found {schema!r}: extract again with this version")
    return StoreInfo(path, identity, provenance)


def _check_identity(identity: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError if what every store says of itself is missing or of another type."""
    if identity["modality"] not in ("audio", "text") or identity["store_dtype"] not in ("fp16", "fp32"):
        raise ValueError(f"unknown modality or store_dtype in {identity}")
    if type(identity["dim"]) is not int:
        raise ValueError(f"dim must be a number, found {identity['dim']!r}")
    if not isinstance(identity["encoder"], str):
        raise ValueError(f"encoder must be a name, found {identity['encoder']!r}")
    if not isinstance(identity["layer"], int | str):
        raise ValueError(f"layer must be a number or a name, found {identity['layer']!r}")
    if not isinstance(identity.get("config", {}), dict):
        raise ValueError(f"config must be an object, found {identity['config']!r}")
