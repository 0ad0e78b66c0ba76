"""Where an encoder's weights were found: what a store records of its model, and how a selector finds it again.

A folder or file is known by a fingerprint of what is read of it, so that a copy of it is the same model and another of
the same name is not. Files above 16 MiB are sampled: the ends of every tensor of safetensors, the checksums that a
.bin holds of its tensors, and blocks all over the file. That takes milliseconds for weights of gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from features.encoders.finetuned import RECORD_FILE, find_fine_tuning
from features.encoders.hub import CONFIG_FILES, cached_snapshot, is_path, split_revision, weights_in
from features.encoders.selector import Selector
from features.errors import InputError

WHOLE = 16 << 20
"""Bytes up to which a file is hashed whole."""
EDGE = 512
"""Bytes hashed on either side of where two tensors meet."""
BLOCK, BLOCKS = 4096, 64
"""Size and number of the blocks that are hashed all over a file."""
TAIL = 1 << 20
"""Bytes hashed at the end: there a .bin (a zip) lists the CRC-32 of every tensor."""


@dataclass(frozen=True)
class ModelSource:
    """What a selector's model was resolved to; all None for weights that are made from a seed."""

    model: str | None = None
    """An absolute path, or a hub id with its #revision if one was given."""
    commit: str | None = None
    """The commit of the hub's repository."""
    fingerprint: str | None = None
    """Over the files that were read."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; `ModelSource(**object)` takes it back."""
        return asdict(self)

    def is_named(self, model: str) -> bool:
        """Tell whether a selector's model that is no existing folder or file is the exact path or hub id of this."""
        if self.commit is None:
            return self.model == absolute(model)
        repository, revision = split_revision(model)
        return self.model == model or (revision == self.commit and self.repository == repository)

    @property
    def repository(self) -> str | None:
        """The hub id without its revision."""
        return split_revision(self.model)[0] if self.model is not None and self.commit is not None else None

    @property
    def usable(self) -> str | None:
        """The model to load the same weights by: the path, or the hub id at the commit if the cache holds it."""
        if self.commit is None:
            return self.model
        pinned = f"{self.repository}#{self.commit}"
        return pinned if cached_snapshot(pinned) is not None else self.model

    @property
    def exists(self) -> bool:
        """Tell whether `usable` names something that is still there, or that the hub may hold."""
        return self.commit is not None or self.model is None or Path(self.model).exists()

    def __str__(self) -> str:
        commit = f" at commit {self.commit}" if self.commit is not None else ""
        return f"{self.model}{commit}" if self.model is not None else "made from a seed"


def absolute(model: str) -> str:
    """Return a path without `~`, `..` or the current folder; links stay as they are."""
    return os.path.abspath(Path(model).expanduser())  # noqa: PTH100 (resolve would follow links)


def find_source(selector: Selector) -> ModelSource:
    """Return what a selector's model, or the encoder's default one, is now: a path, a cached snapshot, or nothing."""
    model = selector.model or selector.spec.model
    if model is None:
        return ModelSource()
    found = local_fingerprint(selector)
    if found is not None:
        return ModelSource(absolute(model), None, found)
    folder = None if is_path(model) else cached_snapshot(model)
    return ModelSource(model, folder.name, fingerprint(folder)) if folder is not None else ModelSource(model)


def local_fingerprint(selector: Selector) -> str | None:
    """Return the fingerprint of the folder or file that a selector names, or of its fine-tuned encoder; else None."""
    model = selector.model or selector.spec.model
    path = Path(model).expanduser() if model is not None else None
    if path is None or not path.exists():
        return None
    record = find_fine_tuning(selector)
    return fingerprint(record.folder if record is not None else path)


def fingerprint(path: Path) -> str:
    """Hash the names, sizes and contents of the files that are read of a checkpoint, the big ones by samples.

    A folder that holds one file of weights and no config.json is as that file, whose name does not count.
    """
    digest = hashlib.sha256()
    try:
        for name, file in _files(path):
            digest.update(f"{name}|{file.stat().st_size}|".encode())
            _hash_file(digest, file)
    except OSError as error:
        raise InputError(f"the model {path} must be readable: {error}") from error
    return digest.hexdigest()[:32]


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [("", path)]
    weights = [path / name for name in weights_in(path) if (path / name).is_file()]
    if len(weights) == 1 and not (path / "config.json").is_file():
        return [("", weights[0])]
    patterns = (*CONFIG_FILES, RECORD_FILE)
    read = [file for file in path.iterdir() if file.is_file() and any(fnmatch(file.name, p) for p in patterns)]
    return [(file.name, file) for file in sorted({*read, *weights})]


def _hash_file(digest: Any, path: Path) -> None:
    """Add a file's bytes, or samples of them, to a hash."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= WHOLE:
            digest.update(file.read())
            return
        places = [(number * (size // BLOCKS), BLOCK) for number in range(BLOCKS)]
        places += [(max(0, edge - EDGE), 2 * EDGE) for edge in _tensor_edges(file, path, size)]
        places.append((max(0, size - TAIL), TAIL))
        for place, length in sorted(places):
            file.seek(place)
            digest.update(file.read(length))


def _tensor_edges(file: BinaryIO, path: Path, size: int) -> list[int]:
    """Return where in a safetensors file its tensors begin and end; none for other files, or beyond its size."""
    if path.suffix != ".safetensors":
        return []
    length = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(min(length, 100 << 20)))
        offsets = [offset for name, each in header.items() if name != "__metadata__" for offset in each["data_offsets"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # not safetensors; loading it says so
    edges = {8 + length + offset for offset in offsets if isinstance(offset, int) and offset >= 0}
    return sorted(edge for edge in edges if edge <= size)
