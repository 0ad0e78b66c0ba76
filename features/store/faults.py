"""Errors of parts: a part is damaged, cannot be read now, or no longer exists."""

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
"""Exceptions of reading a file that is damaged, or if the operating system has a problem."""
OF_THE_FILE = (0, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EOVERFLOW, errno.ENXIO)
"""Error numbers that a damaged part can cause (0: no error number). All others say nothing about
the part."""


class PartError(InputError):
    """A part that could not be read; `detail` is the reason, without path and advice."""

    def __init__(self, path: Path, detail: str, message: str) -> None:
        super().__init__(message)
        self.path, self.detail = path, detail


class DamagedPartError(PartError):
    """A part whose content cannot be trusted."""


class UnreadablePartError(PartError):
    """A part that this process cannot read now; nothing is known about its content."""


class VanishedPartError(PartError):
    """A part that no longer exists: it was compacted, converted, set aside or removed."""


def damaged(path: Path, detail: object) -> DamagedPartError:
    """Return the error of a damaged part, with the commands that repair the store."""
    return DamagedPartError(
        path,
        str(detail),
        f"{path} must be an undamaged part of this feature store, found: {detail}. "
        f"Set it aside with `mervn store verify {path.parent} --set-aside`, then run the same "
        "`mervn extract` again: it encodes only the utterances of this part",
    )


def vanished(path: Path) -> VanishedPartError:
    """Return the error of a part that no longer exists."""
    message = f"{path} must be a part of a feature store, but does not exist"
    return VanishedPartError(path, "it does not exist", message)


def part_error(path: Path, error: BaseException) -> PartError:
    """Return the PartError for an exception that was raised while reading a part."""
    number = system_errno(error)
    if number in OF_THE_FILE and _is_gone(path):
        return vanished(path)
    unmounted = number == errno.ENOENT and path.is_symlink()  # a link whose target is missing
    if number in OF_THE_FILE and not unmounted:
        return damaged(path, error)
    detail = f"{errno.errorcode.get(number, number)}, {os.strerror(number)}"
    message = f"{path} cannot be read now: {detail}. This says nothing about its content{_hint(number)}"
    return UnreadablePartError(path, detail, message)


def system_errno(error: BaseException) -> int:
    """Return the errno behind an exception; 0 if there is none."""
    if isinstance(error, MemoryError) or "memory allocation failed" in str(error):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno:
        return error.errno
    # HDF5 reports some numbers only in the text of other exceptions
    match = re.search(r"errno = (\d+)", str(error))
    return int(match[1]) if match else 0


def _is_gone(path: Path) -> bool:
    """Tell whether a path is known not to exist; a link whose target is missing exists."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _hint(number: int) -> str:
    """Return the end of a message: advice for an error number."""
    if number in (errno.EMFILE, errno.ENFILE):
        return "; raise the limit of open files (`ulimit -n`)"
    if number == errno.ENOMEM:
        return "; free memory, or raise the limit of this process (`ulimit -v`)"
    if number in (errno.EACCES, errno.EPERM):
        return "; change its permissions"
    return "; check the disk or the network file system, then run the same command again"
