"""Source of an encoder's weights, as a store records it.

With it, a selector finds the store again. A folder or file is identified by a fingerprint of the
files that are read of it: a copy is the same model, and another model of the same name is not.
Files above 16 MiB are sampled: the ends of every tensor in safetensors, the checksums of the
tensors in a .bin, and blocks across the file. This takes milliseconds for gigabytes of weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from features.encoders.finetuned import RECORD_FILE, find_fine_tuning
from features.encoders.hub import (
    CONFIG_FILES,
    cached_snapshot,
    find_weights,
    is_path,
    matches_any,
    split_revision,
)
from features.encoders.selector import Selector
from features.errors import InputError

MAX_FULL_HASH = 16 << 20
"""Maximum size in bytes of a file that is hashed completely."""
EDGE = 512
"""Bytes hashed on either side of the boundary of two tensors."""
BLOCK, BLOCKS = 4096, 64
"""Size and number of the blocks that are hashed across a file."""
TAIL = 1 << 20
"""Bytes hashed at the end, where a .bin (a zip archive) lists the CRC-32 of every tensor."""


@dataclass(frozen=True)
class ModelSource:
    """Source of a model: what its selector was resolved to.

    All None for weights that are initialized from a seed.
    """

    model: str | None = None
    """An absolute path, or a hub id with its #revision, if any."""
    commit: str | None = None
    """The commit of the hub's repository."""
    fingerprint: str | None = None
    """Hash of the files that were read."""

    def as_json(self) -> dict[str, str | None]:
        """Return a JSON object; `ModelSource(**object)` is the inverse."""
        return asdict(self)

    def is_named(self, model: str) -> bool:
        """Tell whether a selector's model is exactly this path or hub id.

        The model is known not to exist as a path: an existing one is compared by its fingerprint.
        """
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
        """The model that loads the same weights: the path, or the hub id at the cached commit."""
        if self.commit is None:
            return self.model
        pinned = f"{self.repository}#{self.commit}"
        return pinned if cached_snapshot(pinned) is not None else self.model

    @property
    def exists(self) -> bool:
        """Tell whether `usable` still exists, or may exist on the hub."""
        return self.commit is not None or self.model is None or Path(self.model).exists()

    def __str__(self) -> str:
        commit = f" at commit {self.commit}" if self.commit is not None else ""
        return f"{self.model}{commit}" if self.model is not None else "initialized from a seed"


def absolute(model: str) -> str:
    """Return an absolute path without `~` or `..`; symbolic links are not resolved."""
    return os.path.abspath(Path(model).expanduser())  # noqa: PTH100 (resolve would follow links)


def find_source(selector: Selector) -> ModelSource:
    """Resolve a selector's model, by default the encoder's, to a path or a cached snapshot."""
    model = selector.model or selector.spec.model
    if model is None:
        return ModelSource()
    found = local_fingerprint(selector)
    if found is not None:
        return ModelSource(absolute(model), None, found)
    folder = None if is_path(model) else cached_snapshot(model)
    if folder is None:
        return ModelSource(model)
    return ModelSource(model, folder.name, fingerprint(folder))


def local_fingerprint(selector: Selector) -> str | None:
    """Return the fingerprint of a local model, or of the fine-tuned encoder in a run.

    None for any other model.
    """
    model = selector.model or selector.spec.model
    path = Path(model).expanduser() if model is not None else None
    if path is None or not path.exists():
        return None
    record = find_fine_tuning(selector)
    return fingerprint(record.folder if record is not None else path)


def fingerprint(path: Path) -> str:
    """Hash the files of a checkpoint that are read: their names, sizes and contents.

    The contents of large files are sampled. A folder with one file of weights and no config.json
    counts as that file; the file's name is ignored.
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
    weights = [path / name for name in find_weights(path) if (path / name).is_file()]
    # such as a VGGish file, which may also be named directly
    if len(weights) == 1 and not (path / "config.json").is_file():
        return [("", weights[0])]
    files = set(weights)
    for file in path.iterdir():
        if file.is_file() and matches_any(file.name, (*CONFIG_FILES, RECORD_FILE)):
            files.add(file)
    return [(file.name, file) for file in sorted(files)]


def _hash_file(digest: Any, path: Path) -> None:
    """Add the bytes of a file, or samples of them, to a hash."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size <= MAX_FULL_HASH:
            digest.update(file.read())
            return
        # (offset, length) of each sample
        places = [(number * (size // BLOCKS), BLOCK) for number in range(BLOCKS)]
        places += [(max(0, edge - EDGE), 2 * EDGE) for edge in _tensor_edges(file, path, size)]
        places.append((max(0, size - TAIL), TAIL))
        for place, length in sorted(places):  # in file order, to read forward only
            file.seek(place)
            digest.update(file.read(length))


def _tensor_edges(file: BinaryIO, path: Path, size: int) -> list[int]:
    """Return the byte offsets within a safetensors file at which its tensors begin and end.

    Empty for other files.
    """
    if path.suffix != ".safetensors":
        return []
    length = int.from_bytes(file.read(8), "little")
    data = 8 + length  # after the 8 bytes of the header's length and the header
    edges = set[int]()
    try:
        header = json.loads(file.read(min(length, 100 << 20)))
        header.pop("__metadata__", None)
        for tensor in header.values():
            for offset in tensor["data_offsets"]:
                if isinstance(offset, int) and offset >= 0:
                    edges.add(data + offset)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # not valid safetensors; loading it reports the error
    return sorted(edge for edge in edges if edge <= size)
