"""Checks of the files of a checkpoint folder, for damage that transformers reports with misleading errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.encoders.hub import find_index, is_file_name, read_index
from features.encoders.selector import Selector
from features.errors import InputError

WEIGHTS = (".safetensors", ".bin")
TEXTS = (".json", ".txt", ".codes", ".model")
PLACEHOLDERS = {
    b"version https://git-lfs": "a git-lfs pointer in place of the file: run `git lfs pull` in that folder",
    b"<!doctype html": "an HTML page in place of the file: download the file itself",
    b"<html": "an HTML page in place of the file: download the file itself",
}
"""What a failed download leaves in place of a file, by the first bytes."""


def check_files(selector: Selector, location: str, suffixes: Sequence[str]) -> None:
    """Raise InputError for a file of a local folder that is empty, a git-lfs pointer or an HTML page."""
    if not Path(location).is_dir():
        return
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
    """Raise InputError if the index of sharded weights names anything but files in the same folder."""
    index = find_index(Path(location))
    names = read_index(index) if index is not None else None
    for name in names or ():
        if not is_file_name(name):
            raise InputError(f"{selector.flag}: {index} must name files in its own folder, found {name!r}")


def require_files(selector: Selector, location: str, names: Sequence[str]) -> None:
    """Raise InputError if one of these files is missing in a local folder."""
    missing = [name for name in names if not (Path(location) / name).is_file()]
    if missing and Path(location).is_dir():
        raise InputError(
            f"{selector.flag}: {location} must hold {' and '.join(names)}, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
