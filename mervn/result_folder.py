"""Result folders: a lock admits one writing process, and a check admits one configuration."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from features.atomic_files import remove_folder
from features.canonical import canonical_json, differing_fields
from features.errors import InputError, UsageError
from features.store.locks import NO_LOCKS

LOCK_FILE = ".lock"
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT)
"""Errors from mkdir if part of the path is a file, a broken link or a loop of links, or in a place like /proc."""
_held: set[TextIO] = set()


def _close_in_child() -> None:
    """Close a forked child's copies of the locks, which would outlive a parent that was killed."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked(folder: Path, marker: str, kind: str) -> Iterator[None]:
    """Create a folder and lock it against other processes.

    The lock ends with the process, even if it is killed.

    `marker` is the file that identifies a folder of this `kind` ("run"). UsageError if the path
    holds something else, InputError if another process is writing to the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} must be a folder for the {kind}, found a file")
    if folder.is_dir() and not (folder / marker).is_file() and _has_files(folder):
        raise UsageError(f"{folder} is not empty and holds no {kind} ({marker} is missing); choose another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        raise UsageError(f"{folder} must be a folder for the {kind}, but it cannot be created: {error}") from error
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder} is being written by another process; wait for it, or choose another --output"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise InputError(
                f"{folder} must be on a file system that can lock files, found: {error.strerror}; "
                "mount Lustre with `-o flock`, or choose an --output on another file system"
            ) from error
        _held.add(file)  # forked workers close their copy: see _close_in_child
        try:
            yield
        finally:
            _held.discard(file)


def _has_files(folder: Path) -> bool:
    """Tell whether a folder holds anything except its lock, and what a kill left of a first write."""
    names = [path.name for path in folder.iterdir()]
    return any(name != LOCK_FILE and not (name.startswith(".") and name.endswith(".tmp")) for name in names)


def require_same(folder: Path, kind: str, existing: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise a UsageError that lists the differences if a folder holds another configuration."""
    if canonical_json(existing) == canonical_json(requested):
        return
    message = f"{folder} holds a {kind} of another configuration; choose another --output:"
    as_read = json.loads(canonical_json(requested))  # lists, as in the file, where the configuration has tuples
    for key, (before, after) in differing_fields(existing, as_read).items():
        message += f"\n  {key}: existing {before!r}, requested {after!r}"
    raise UsageError(message)


def clear(folder: Path, kept: Collection[str] = ()) -> None:
    """Remove everything in a folder except its lock and the files in `kept`.

    The caller must first remove the file that marks the folder as complete. Folders are removed
    before files, so that an interruption never leaves a checkpoint without its history.
    """
    for path in sorted(folder.iterdir(), key=lambda path: not path.is_dir()):  # folders first
        if path.name == LOCK_FILE or path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        else:
            path.unlink()
