"""A folder that one process fills with the result of one configuration: the lock, the refusal of another, its JSON."""

from __future__ import annotations

import errno
import fcntl
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
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
"""What is said where a file, a broken link or a loop of links stands on the way."""
_held: set[TextIO] = set()


def _leave_to_parent() -> None:
    """Close a forked child's copies of the locks: held on by a worker, they would outlive a parent that is killed."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def locked(folder: Path, marker: str, kind: str) -> Iterator[None]:
    """Make a folder and keep a second process out of it; the lock goes with the process, however it ends.

    `marker` is the file that tells a folder of this `kind` ("run") from any other. UsageError where something else
    stands there, InputError where another process writes.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} must be a folder for the {kind}, found a file")
    if folder.is_dir() and not (folder / marker).is_file() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no {kind} ({marker} is missing); choose another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        raise UsageError(f"{folder} must be a folder for the {kind}, but none can be made there: {error}") from error
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder} is being written by another process; wait for it or give --output") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise InputError(
                f"{folder} must be on a file system that can lock files, found: {error.strerror}; mount Lustre with "
                "`-o flock`, or give an --output on another file system"
            ) from error
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def require_same(folder: Path, kind: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a UsageError that lists the differences where a folder holds another configuration."""
    if canonical_json(there) != canonical_json(now):
        differing = differing_fields(there, now)
        lines = [f"  {key}: there {before!r}, now {after!r}" for key, (before, after) in differing.items()]
        raise UsageError(
            f"{folder} holds a {kind} of another configuration; choose another --output:\n" + "\n".join(lines)
        )


def clear(folder: Path, kept: Collection[str] = ()) -> None:
    """Remove everything in a folder but its lock and the files to be kept.

    The caller has removed the file that marks the folder complete. Folders go first, so that no checkpoint outlives the
    history that it continues.
    """
    for path in sorted(folder.iterdir(), key=lambda path: not path.is_dir()):
        if path.name == LOCK_FILE or path.name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        else:
            path.unlink()
