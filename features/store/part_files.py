"""Files of a store that are parts: their names, formats and sizes, their listing and their removal."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from features.atomic_files import remove_folder, write_atomically

FORMATS = {".h5": "hdf5", ".zarr": "zarr"}
"""Part format of each file name suffix."""
SUFFIXES = {"hdf5": ".h5", "zarr": ".zarr"}
"""File name suffix of each part format. The module of a format is features.store.<format>."""
DAMAGED = ".damaged"
"""Suffix added to the name of a damaged part that was set aside."""
REWRITTEN = ".rewritten"
"""File that changes before parts are removed; a reader that sees a change lists the parts again."""
SCANS = 10
"""Maximum number of listings while another process replaces parts."""


def format_of(path: Path) -> str:
    """Return the format of a part, or of its temporary file such as .part-1.h5.TOKEN.tmp."""
    for suffix in path.suffixes:
        if suffix in FORMATS:
            return FORMATS[suffix]
    raise ValueError(f"a part must have one of the suffixes {', '.join(FORMATS)}, found {path}")


def part_paths(store: Path) -> list[Path]:
    """Return the committed parts of a store, sorted by name; one may no longer exist."""
    return [store / name for name in sorted(filter(is_part_name, file_names(store)))]


def file_names(store: Path) -> set[str]:
    """Return the names of the files of a store; its parts among them hold every committed utterance.

    One scan of a folder can miss both an old part and the new one that replaces it. The scan is
    therefore repeated if `announce_removal` was called meanwhile. A file may no longer exist.
    """
    seen: set[str] = set()
    for _ in range(SCANS):
        before = _rewritten(store)
        found = set(_scan(store))
        if _rewritten(store) == before:
            return found
        seen |= found
    return seen


def _scan(store: Path) -> list[str]:
    """Return the names that one scan of a folder finds."""
    # many parts are listed often: a Path for each of them would take ten times as long
    return os.listdir(store)  # noqa: PTH208


def is_part_name(name: str) -> bool:
    """Tell whether a file name is that of a committed part."""
    return name.startswith("part-") and name.endswith(tuple(FORMATS))


def announce_removal(store: Path) -> None:
    """Tell readers that parts will be removed now.

    Their utterances must already be committed in other parts.
    """
    write_atomically(store / REWRITTEN, secrets.token_hex(8))


def _rewritten(store: Path) -> bytes | None:
    """Return the content of `REWRITTEN`, which tells whether parts were removed since."""
    try:
        return (store / REWRITTEN).read_bytes()
    except FileNotFoundError:
        return None


def remove(path: Path, token: str | None = None) -> None:
    """Remove a part or a temporary file.

    A folder is renamed first, to a temporary name of `token` if given.
    """
    if path.is_dir() and not path.is_symlink():
        remove_folder(path.rename(path.with_name(f".{path.name}.{token}.tmp")) if token else path)
    else:
        path.unlink(missing_ok=True)


def num_bytes(path: Path) -> int:
    """Return the size of a part on disk, in bytes; raises FileNotFoundError if it is missing."""
    path.lstat()  # raises FileNotFoundError; rglob of a missing folder would return nothing
    if path.is_file():
        return path.stat().st_size
    total = 0
    for file in path.rglob("*"):
        total += file.stat().st_size if file.is_file() else 0
    return total
