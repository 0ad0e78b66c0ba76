"""Hugging Face hub: snapshots in the local cache, downloaded only if a file is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import filter as fnmatch_filter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError

CONFIG_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "*.model", "*.index.json",
)  # fmt: skip
"""Files of a checkpoint that are read besides its weights."""
GENERATION_FILE = "generation_config.json"
"""Settings of decoding. No encoder reads it, so it is no part of the fingerprint of a model."""
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""The usual names, in the order in which transformers prefers them."""
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
"""Suffixes of files that can hold weights."""
NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Patterns of other files with these suffixes, which trainers write beside the weights."""


def split_revision(model: str) -> tuple[str, str | None]:
    """Split `org/name#revision`; UsageError if one side of a `#` is empty."""
    repository, mark, revision = model.partition("#")
    if mark and not (repository and revision):
        raise UsageError(f"a model of the hub must have the form NAME or NAME#REVISION, found {model!r}")
    return repository, revision or None


def cached_snapshot(model: str) -> Path | None:
    """Return the folder of the cached snapshot of `org/name[#revision]`; None if there is none.

    The name of the folder is the commit. The snapshot may lack files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, revision = split_revision(model)
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def select_weights(names: Iterable[str], shards: Sequence[str] | None = None) -> list[str]:
    """Select the weight files to load among the files of a repository.

    Safetensors are preferred to .bin, and a single file to the `shards` that an index names. Files
    with other names are selected only if none has a usual one, except for the weights of
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
    return [name for name in weights if not matches_any(name, NOT_WEIGHTS)]


def find_weights(folder: Path) -> list[str]:
    """Return the names of a folder's weight files, with missing shards that an index names."""
    index = find_index(folder)
    return select_weights(_file_names(folder), _shards(index) if index else None)


def _file_names(folder: Path) -> list[str]:
    # is_file: false for a link whose blob is missing in the cache
    return [path.name for path in folder.iterdir() if path.is_file()]


def find_index(folder: Path) -> Path | None:
    """Return the index of the sharded weights of a folder.

    None if there is none, or if a single file of weights is preferred to it.
    """
    for usual in WEIGHTS_FILES:
        index = folder / f"{usual}.index.json"
        if (folder / usual).is_file():
            return None
        if index.is_file():
            return index
    return None


def read_index(index: Path) -> list[Any] | None:
    """Return the shard of each tensor, as an index of weights names it.

    None if it cannot be read.
    """
    try:
        return list(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def is_file_name(name: Any) -> bool:
    """Tell whether an entry of an index is a plain file name, and so no path to another folder."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def missing_files(folder: Path, needed: Sequence[str]) -> list[str]:
    """Return the patterns and names of the files that a snapshot lacks, weights included.

    `needed` are patterns, with `|` between alternatives.
    """
    names = _file_names(folder)
    missing = []
    for patterns in needed:
        if not any(matches_any(name, patterns.split("|")) for name in names):
            missing.append(patterns)
    weights = find_weights(folder)
    if not weights:
        return [*missing, "the weights"]
    return missing + [name for name in weights if name not in names]


def is_cached(model: str, needed: Sequence[str]) -> bool:
    """Tell whether a model can be loaded from the local cache alone."""
    return _complete_snapshot(model, needed) is not None


def _complete_snapshot(model: str, needed: Sequence[str]) -> Path | None:
    folder = cached_snapshot(model)
    return folder if folder is not None and not missing_files(folder, needed) else None


def fetch(model: str, needed: Sequence[str]) -> Path:
    """Return the folder of a hub model: its cached snapshot, downloaded if files are missing.

    InputError says what is missing in the cache and why the download failed.
    """
    repository, revision = split_revision(model)
    with _hub_errors(model, needed):
        cached = _complete_snapshot(model, needed)
        if cached is not None:
            return cached
        from huggingface_hub import HfApi, snapshot_download

        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        # only what is loaded: repositories also have weights for other frameworks
        configs = [name for name in names if "/" not in name and matches_any(name, (*CONFIG_FILES, GENERATION_FILE))]
        wanted = configs + select_weights(names)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


@contextmanager
def _hub_errors(model: str, needed: Sequence[str]) -> Iterator[None]:
    """Turn the errors of the hub's client into one InputError."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    # any type: the client's HTTP library, whose errors it raises, depends on its version
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        folder = cached_snapshot(model)
        missing = f", which lacks {', '.join(missing_files(folder, needed))}," if folder is not None else ""
        raise InputError(
            f"{model!r} must be in the local hub cache{missing} or on the hub (and no folder has that name): {reason}"
        ) from error


def _shards(index: Path) -> list[str] | None:
    """Return the names of the shards in an index of weights; None if it cannot be read."""
    names = read_index(index)
    return sorted(set(filter(is_file_name, names))) if names is not None else None


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file name matches one of these shell patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def is_path(model: str) -> bool:
    """Tell whether a model name can only be a path and not a hub id."""
    return model.startswith((".", "~", os.sep)) or split_revision(model)[0].count("/") > 1
