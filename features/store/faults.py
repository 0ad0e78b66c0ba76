"""What can be wrong with a part: it is damaged, it cannot be read now, or it has gone meanwhile."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

from features.errors import InputError

FAULTS = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
"""What reading a file with flipped bits, or on a system in trouble, can raise."""
OF_THE_FILE = (0, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EOVERFLOW, errno.ENXIO)
"""Errors of the system that a damaged part causes; every other one says nothing about the part."""


class PartError(InputError):
    """A part that could not be read."""

    def __init__(self, path: Path, why: str, message: str) -> None:
        super().__init__(message)
        self.path, self.why = path, why


class DamagedPartError(PartError):
    """A part whose content cannot be trusted."""


class UnreadablePartError(PartError):
    """A part that the system does not let this process read now; nothing is known about its content."""


class VanishedPartError(PartError):
    """A part that was compacted, converted, set aside or removed meanwhile."""


def damaged(path: Path, why: object) -> DamagedPartError:
    """Return the error that names a part that cannot be trusted, and says what to do."""
    return DamagedPartError(
        path,
        str(why),
        f"{path} must be a whole part of this feature store, found: {why}. Set it aside with "
        f"`mervn store verify {path.parent} --set-aside`, then run the same `mervn extract` again: only its "
        "utterances are encoded anew",
    )


def vanished(path: Path) -> VanishedPartError:
    """Return the error of a part that is gone."""
    return VanishedPartError(path, "it is gone", f"{path} must be a part of a feature store, but it is gone")


def part_error(path: Path, error: BaseException) -> PartError:
    """Return what an error while reading a part means."""
    number = system_errno(error)
    if number in OF_THE_FILE and _is_gone(path):
        return vanished(path)
    unmounted = number == errno.ENOENT and path.is_symlink()  # a link whose target is missing
    if number in OF_THE_FILE and not unmounted:
        return damaged(path, error)
    why = f"{errno.errorcode.get(number, number)}, {os.strerror(number)}"
    return UnreadablePartError(
        path, why, f"{path} cannot be read now: {why}. This says nothing about its content{_hint(number)}"
    )


def system_errno(error: BaseException) -> int:
    """Return the number of the system's error behind an exception; 0 if the system reported none."""
    if isinstance(error, MemoryError) or "memory allocation failed" in str(error):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"errno = (\d+)", str(error))  # HDF5 hides some in errors of another type
    return int(told[1]) if told else 0


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _hint(number: int) -> str:
    if number in (errno.EMFILE, errno.ENFILE):
        return "; raise the limit of open files (`ulimit -n`)"
    if number == errno.ENOMEM:
        return "; free memory, or raise the limit of this process (`ulimit -v`)"
    if number in (errno.EACCES, errno.EPERM):
        return "; change its permissions"
    return "; check the disk or the network file system, then run the same command again"
