"""Checks of a checkpoint's files, for damage that transformers reports with misleading errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.encoders.hub import find_index, is_file_name, read_index
from features.encoders.selector import Selector
from features.errors import InputError

WEIGHTS = (".safetensors", ".bin")
"""Suffixes of files of weights."""
TEXTS = (".json", ".txt", ".codes", ".model")
"""Suffixes of configs and vocabularies."""
PLACEHOLDERS = {
    b"version https://git-lfs": "a git-lfs pointer in place of the file: run `git lfs pull` in that folder",
    b"<!doctype html": "an HTML page in place of the file: download the file itself",
    b"<html": "an HTML page in place of the file: download the file itself",
}
"""Descriptions of what a failed download leaves in place of a file, by its first bytes."""


def check_files(selector: Selector, location: str, suffixes: Sequence[str]) -> None:
    """Raise InputError for a file with one of these suffixes that a failed download left.

    It is an empty file of weights, a git-lfs pointer or an HTML page.
    """
    for path in sorted(Path(location).iterdir()):
        if path.suffix not in suffixes or not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
        if not start and path.suffix in WEIGHTS:
            raise InputError(f"{selector.flag}: {path} is empty: copy the file again")
        for beginning, description in PLACEHOLDERS.items():
            if start.startswith(beginning):
                raise InputError(f"{selector.flag}: {path} is {description}")


def check_shards(selector: Selector, location: str) -> None:
    """Raise InputError if the index of sharded weights names a file outside the folder."""
    index = find_index(Path(location))
    names = read_index(index) if index is not None else None
    for name in names or ():
        if not is_file_name(name):
            raise InputError(f"{selector.flag}: {index} must name files in its own folder, found {name!r}")


def require_files(selector: Selector, location: str, names: Sequence[str]) -> None:
    """Raise InputError if the folder lacks one of these files."""
    missing = [name for name in names if not (Path(location) / name).is_file()]
    if missing:
        found = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise InputError(f"{selector.flag}: {location} must hold {' and '.join(names)}, but {found}")
