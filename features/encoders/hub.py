"""Hugging Face hub: snapshots in the local cache, downloaded only if a file is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from fnmatch import filter as fnmatch_filter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError

CONFIG_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt",
    "*.model", "*.index.json",
)  # fmt: skip
"""Files of a checkpoint that are read besides its weights."""
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""The usual names, in the order in which transformers prefers them."""
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Files with these suffixes that trainers write beside the weights."""


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `org/name#revision`; UsageError if one side of a `#` is empty."""
    repository, mark, revision = model.partition("#")
    if mark and not (repository and revision):
        raise UsageError(f"a model of the hub must have the form NAME or NAME#REVISION, found {model!r}")
    return repository, revision or None


def cached_snapshot(model: str) -> Path | None:
    """Return the cached snapshot, complete or not, of `org/name[#revision]`: a folder that is named by its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, revision = split_revision(model)
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def select_weights(names: Iterable[str], shards: Sequence[str] | None = None) -> list[str]:
    """Select the weight files to load: safetensors before .bin, a single file before the `shards` of an index.

    Files with other names are selected only if none has a usual one, except for the weights of
    DeBERTa-v3's generator.
    """
    top_level = sorted(name for name in names if "/" not in name)
    weights = [name for name in top_level if name.endswith(WEIGHTS_SUFFIXES)]
    # transformers loads the first of these that exists, as a file or as shards
    for usual in WEIGHTS_FILES:
        if usual in top_level:
            return [usual, *fnmatch_filter(weights, "*.generator.*")]
        if f"{usual}.index.json" in top_level:
            stem, suffix = usual.split(".")
            return list(shards) if shards is not None else fnmatch_filter(top_level, f"{stem}-*-of-*.{suffix}")
    return [name for name in weights if not _matches_any(name, NOT_WEIGHTS)]


def find_weights(folder: Path) -> list[str]:
    """Return the names of the weight files of a folder, including missing shards that an index names."""
    index = find_index(folder)
    return select_weights(_file_names(folder), _shards(index) if index else None)


def _file_names(folder: Path) -> list[str]:
    # not a link to a missing blob
    return [path.name for path in folder.iterdir() if path.is_file()]


def find_index(folder: Path) -> Path | None:
    """Return the index of the sharded weights of a folder.

    None if there is none, or a single file of weights.
    """
    for usual in WEIGHTS_FILES:
        index = folder / f"{usual}.index.json"
        if (folder / usual).is_file():
            return None
        if index.is_file():
            return index
    return None


def read_index(index: Path) -> list[Any] | None:
    """Return the entries of an index of weights, the shard of each tensor.

    None if it cannot be read.
    """
    try:
        return list(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def is_file_name(name: Any) -> bool:
    """Tell whether an entry of an index is a plain file name, which cannot lead to another folder."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def missing_files(folder: Path, needed: Sequence[str]) -> list[str]:
    """Return what is missing in a snapshot: `needed` (patterns, with `|` between alternatives) and the weights."""
    names = _file_names(folder)
    missing = []
    for patterns in needed:
        if not any(_matches_any(name, patterns.split("|")) for name in names):
            missing.append(patterns)
    weights = find_weights(folder)
    if not weights:
        return [*missing, "the weights"]
    return missing + [name for name in weights if name not in names]


def is_cached(model: str, needed: Sequence[str]) -> bool:
    """Tell whether a model can be loaded from the local cache alone."""
    folder = cached_snapshot(model)
    return folder is not None and not missing_files(folder, needed)


def fetch(model: str, needed: Sequence[str]) -> Path:
    """Return the folder of a hub model: its cached snapshot if that is complete, else after downloading it.

    InputError says what is missing in the cache and why the download failed.
    """
    repository, revision = split_revision(model)
    with _hub_errors(model, needed):
        if is_cached(model, needed):
            return Path(str(cached_snapshot(model)))
        from huggingface_hub import HfApi, snapshot_download

        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        # only what is loaded: repositories also have weights for other frameworks
        configs = [name for name in names if "/" not in name and _matches_any(name, CONFIG_FILES)]
        wanted = configs + select_weights(names)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


@contextmanager
def _hub_errors(model: str, needed: Sequence[str]) -> Any:
    """Turn the errors of the hub's client into one InputError."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # the hub's client raises errors of its HTTP library, which depends on the version
        lines = [line for line in str(error).splitlines() if line.strip()]
        folder = cached_snapshot(model)
        missing = f", which lacks {', '.join(missing_files(folder, needed))}," if folder is not None else ""
        raise InputError(
            f"{model!r} must be in the local hub cache{missing} or on the hub (and no folder has that name): "
            f"{lines[0] if lines else type(error).__name__}"
        ) from error


def _shards(index: Path) -> list[str] | None:
    """Return the names of the shards in an index of weights; None if it cannot be read."""
    names = read_index(index)
    return sorted(set(filter(is_file_name, names))) if names is not None else None


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_path(model: str) -> bool:
    """Tell whether a model name can only be a path and not a hub id."""
    return model.startswith((".", "~", os.sep)) or split_revision(model)[0].count("/") > 1
