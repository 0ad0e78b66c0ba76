"""Checkpoints of the Hugging Face hub: snapshots in the local cache, downloaded only if something is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError

CONFIG_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt",
    "*.model", "*.index.json",
)  # fmt: skip
"""What is read of a checkpoint besides its weights."""
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""The usual names, in the order in which transformers prefers them."""
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""What trainers leave beside the weights."""


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `org/name#revision`; UsageError if there is a `#` and nothing on one side of it."""
    repository, mark, revision = model.partition("#")
    if mark and not (repository and revision):
        raise UsageError(f"a model of the hub must have the form NAME or NAME#REVISION, found {model!r}")
    return repository, revision or None


def cached_snapshot(model: str) -> Path | None:
    """Return the snapshot folder of `org/name[#revision]` in the local cache, whole or not; its name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, revision = split_revision(model)
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def weights_of(names: Iterable[str], shards: Sequence[str] | None = None) -> list[str]:
    """Choose the files of weights that are loaded: safetensors before .bin, one file before `shards` of an index.

    Files of other names are taken only if none has a usual one, but for the weights of DeBERTa-v3's generator.
    """
    there = sorted(name for name in names if "/" not in name)
    for usual in WEIGHTS_FILES:
        if usual in there:
            return [usual, *(n for n in there if ".generator." in n and n.endswith(WEIGHTS_SUFFIXES))]
        if f"{usual}.index.json" in there:
            stem, suffix = usual.split(".")
            return list(shards) if shards is not None else [n for n in there if fnmatch(n, f"{stem}-*-of-*.{suffix}")]
    return [name for name in there if name.endswith(WEIGHTS_SUFFIXES) and not _is_any_of(name, NOT_WEIGHTS)]


def weights_in(folder: Path) -> list[str]:
    """Return the names of the files of weights of a folder, the shards that an index names even if they are missing."""
    index = find_index(folder)
    return weights_of((path.name for path in folder.iterdir() if path.is_file()), _shards(index) if index else None)


def find_index(folder: Path) -> Path | None:
    """Return the index of weights that is read of a folder; None if it has none, or the weights in one file."""
    for usual in WEIGHTS_FILES:
        index = folder / f"{usual}.index.json"
        if (folder / usual).is_file():
            return None
        if index.is_file():
            return index
    return None


def read_index(index: Path) -> list[Any] | None:
    """Return what an index of weights names as the shard of each tensor; None if it cannot be read."""
    try:
        return list(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def is_beside(name: Any) -> bool:
    """Tell whether what an index names is a plain file name, which leads to no other folder."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def missing_files(folder: Path, needed: Sequence[str]) -> list[str]:
    """Return what a snapshot lacks: `needed` (patterns; `|` separates alternatives) and the weights."""
    names = [path.name for path in folder.iterdir() if path.is_file()]  # a link to a blob that is missing is no file
    weights = weights_in(folder)
    missing = [each for each in needed if not any(_is_any_of(name, each.split("|")) for name in names)]
    return missing + ([name for name in weights if name not in names] if weights else ["the weights"])


def is_cached(model: str, needed: Sequence[str]) -> bool:
    """Tell whether a model can be loaded from the local cache alone."""
    folder = cached_snapshot(model)
    return folder is not None and not missing_files(folder, needed)


def fetch(model: str, needed: Sequence[str]) -> Path:
    """Return a folder that holds a hub model: its cached snapshot if that is complete, else downloaded.

    InputError names what is missing in the cache and why the hub did not give it.
    """
    repository, revision = split_revision(model)
    with _explained(model, needed):
        if is_cached(model, needed):
            return Path(str(cached_snapshot(model)))
        from huggingface_hub import HfApi, snapshot_download

        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        wanted = [name for name in names if "/" not in name and _is_any_of(name, CONFIG_FILES)] + weights_of(names)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


@contextmanager
def _explained(model: str, needed: Sequence[str]) -> Any:
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # the hub's client raises errors of its HTTP library, which differs by version
        lines = [line for line in str(error).splitlines() if line.strip()]
        folder = cached_snapshot(model)
        there = f", which lacks {', '.join(missing_files(folder, needed))}," if folder is not None else ""
        raise InputError(
            f"{model!r} must be in the local hub cache{there} or on the hub (and no folder has that name): "
            f"{lines[0] if lines else type(error).__name__}"
        ) from error


def _shards(index: Path) -> list[str] | None:
    """Return the shards beside an index of weights that it names; None if it cannot be read."""
    names = read_index(index)
    return sorted(set(filter(is_beside, names))) if names is not None else None


def _is_any_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_path(model: str) -> bool:
    """Tell whether a model that no folder or file has the name of can only have been meant as a path."""
    return model.startswith((".", "~", os.sep)) or split_revision(model)[0].count("/") > 1
