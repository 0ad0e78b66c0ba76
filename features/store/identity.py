"""Identity of a store: everything that changes its numbers. Its hash names the store's folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.canonical import canonical_json
from features.encoders.selector import Layer
from features.errors import InputError, UsageError

STORE_FILE = "store.json"
SCHEMA = 2
"""Version of the form of store.json."""
MODALITIES = ("audio", "text")
STORE_DTYPES = ("fp16", "fp32")


@dataclass(frozen=True)
class StoreIdentity:
    """Everything that changes the numbers of a store, and nothing else.

    If one field differs, the features are in different stores.
    """

    modality: str
    """`audio` or `text`."""
    encoder: str
    """The encoder's name in the registry, or FILE.py:Class of a custom one."""
    weights_sha256: str
    """Hex digest of the encoder's weights."""
    config: Mapping[str, Any]
    """The encoder's settings that are not in its weights."""
    layer: Layer
    """Layer whose hidden states are stored: a number or `last`; `means` for layer means."""
    dim: int
    """D, the width of the features."""
    encoder_precision: str
    """fp32 or bf16."""
    store_dtype: str
    """fp16 or fp32."""
    numerics_version: int
    """Version of the encoder's code; raised by every fix that changes numbers."""
    sample_rate: int | None = None
    """In Hz; None for text."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StoreIdentity:
        """Build an identity from its JSON object.

        Raises ValueError for a key that is missing, unknown or invalid.
        """
        wanted = set(_TYPES)
        if document.get("modality") != "audio":
            wanted.remove("sample_rate")
        if document.keys() != wanted:
            raise ValueError(f"the identity must have the keys {sorted(wanted)}, found {sorted(document)}")
        for key, value in document.items():
            if type(value) not in _TYPES[key]:  # isinstance would accept True as an integer
                names = " or ".join(kind.__name__ for kind in _TYPES[key])
                raise ValueError(f"{key} must be of type {names}, found {value!r}")
        for key, allowed in (("modality", MODALITIES), ("store_dtype", STORE_DTYPES)):
            if document[key] not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}, found {document[key]!r}")
        return cls(**document)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that store.json holds and that is hashed."""
        document = asdict(self)
        if self.sample_rate is None:
            del document["sample_rate"]
        return document

    @property
    def canonical(self) -> str:
        """Canonical JSON: equal identities have equal text."""
        return canonical_json(self.as_json())

    @property
    def hash(self) -> str:
        """The first 8 hex digits of the sha256 of the canonical JSON in UTF-8."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:8]

    def duration_s(self, num_samples: int) -> float:
        """Return the duration of audio in seconds; raises ValueError if this is a store of text."""
        if self.sample_rate is None:
            raise ValueError("inputs must be audio to have a duration, found text")
        return num_samples / self.sample_rate


_TYPES: dict[str, tuple[type, ...]] = {
    "modality": (str,),
    "encoder": (str,),
    "weights_sha256": (str,),
    "config": (dict,),
    "layer": (int, str),
    "dim": (int,),
    "encoder_precision": (str,),
    "store_dtype": (str,),
    "numerics_version": (int,),
    "sample_rate": (int,),
}
"""Types of the JSON value of each field; a store of text has no `sample_rate`."""


@dataclass(frozen=True)
class StoreInfo:
    """Content of store.json: a store's identity, and its provenance, which is not part of it."""

    path: Path
    identity: StoreIdentity
    provenance: Mapping[str, Any]

    @property
    def modality(self) -> str:
        """`audio` or `text`."""
        return self.identity.modality

    @property
    def encoder(self) -> str:
        """The encoder's name in the registry."""
        return self.identity.encoder

    @property
    def hash(self) -> str:
        """The 8 hex digits of the identity."""
        return self.identity.hash


def store_folder(features_dir: Path, identity: StoreIdentity, model_name: str) -> Path:
    """Return <features-dir>/<audio|text>/<encoder>-<model's base name>-L<layer>-<8 hex digits>."""
    # a custom encoder is FILE.py:Class
    encoder, model = (re.sub(r"[^A-Za-z0-9._-]+", "-", name) for name in (identity.encoder, model_name))
    return features_dir / identity.modality / f"{encoder}-{model}-L{identity.layer}-{identity.hash}"


def find_identity(features_dir: Path, identity: StoreIdentity) -> StoreInfo | None:
    """Return the store of this identity, else None.

    Equal weights can come from models of different names, so the folder's name can contain another.
    """
    for path in sorted((features_dir / identity.modality).glob(f"*-{identity.hash}")):
        if (path / STORE_FILE).is_file():
            info = read_store_info(path)
            if info.identity.canonical == identity.canonical:  # 8 hex digits can be equal by chance
                return info
    return None


def create_store(
    features_dir: Path, identity: StoreIdentity, provenance: Mapping[str, Any], model_name: str
) -> StoreInfo:
    """Create the store of this identity, or return the existing one."""
    info = find_identity(features_dir, identity)
    if info is None:
        info = StoreInfo(store_folder(features_dir, identity, model_name), identity, provenance)
        info.path.mkdir(parents=True, exist_ok=True)
        write_store_info(info)
    return info


def write_store_info(info: StoreInfo) -> None:
    """Write store.json."""
    document = {"schema": SCHEMA, "identity": info.identity.as_json(), "provenance": dict(info.provenance)}
    write_atomically(info.path / STORE_FILE, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_store_info(path: Path) -> StoreInfo:
    """Read store.json.

    Raises UsageError if the folder is not a store, InputError if it is damaged or of another
    schema.
    """
    file = path / STORE_FILE
    try:
        document = json.loads(file.read_text("utf-8"))
        schema, provenance = document["schema"], document["provenance"]
        if not isinstance(provenance, dict):
            raise ValueError(f"provenance must be an object, found {provenance!r}")
        identity = StoreIdentity.from_json(document["identity"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path} must be a feature store, but {file} does not exist") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} must describe a feature store, but cannot be read: {error!r}") from error
    if schema != SCHEMA:
        raise InputError(f"{file} must have schema {SCHEMA}, found {schema!r}: extract again with this version")
    return StoreInfo(path, identity, provenance)
