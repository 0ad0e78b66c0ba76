"""Arrays on disk, mapped into memory when they are first read; no file stays open.

`mmap` of Python 3.11 keeps a descriptor for every mapping, so that a large store would use up those of a process. The
system call itself needs none once the file is mapped.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import weakref
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MAX_MAPPED = 8192
"""Arrays that one process keeps mapped, of all stores; the system's own limit is some 65 000 mappings a process."""

_lock = threading.RLock()
_mapped: deque[weakref.ref[MappedArray]] = deque()


class MappedArray:
    """A read-only array (N, D) in a file; it is mapped again if it was not used for long.

    ValueError if the file is shorter than the array. FileNotFoundError while mapping says that the file is gone, or is
    another one than at first.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, int]) -> None:
        self.file, self.dtype, self.offset, self.shape = file, dtype, offset, shape
        self.nbytes = shape[0] * shape[1] * dtype.itemsize
        self._version = _version(file.stat())
        self._array: Array | None = None if self.nbytes else np.zeros(shape, dtype)
        self._used = False
        needed, size = offset + self.nbytes, self._version[1]
        if self.nbytes and size < needed:
            raise ValueError(f"it must be at least {needed} bytes long, and is {size}")

    def array(self) -> Array:
        """Return the array. It stays valid as long as the caller holds it or a slice of it."""
        found = self._array
        if found is None:
            found = self._map()
        self._used = True
        return found

    def _map(self) -> Array:
        with _lock:
            if self._array is None:
                try:
                    self._array = self._open()
                except OSError as error:
                    if error.errno != errno.ENOMEM:
                        raise
                    _keep(0)  # the mappings of other arrays fill the address space
                    self._array = self._open()
                _keep(MAX_MAPPED - 1)
                _mapped.append(weakref.ref(self))
            return self._array

    def _open(self) -> Array:
        descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _version(os.fstat(descriptor)) != self._version:
                raise FileNotFoundError(errno.ENOENT, "replaced by another file", str(self.file))
            pages = _Pages(descriptor, self.offset + self.nbytes)
        finally:
            os.close(descriptor)
        data: Array = np.asarray(pages)[self.offset :].view(self.dtype).reshape(self.shape)
        return data


class _Pages:
    """The pages of a file; they are unmapped when the last array on them is gone."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._address, self._size, self._libc = None, size, _libc()
        address = self._libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}

    def __del__(self) -> None:
        if self._address is not None:
            self._libc.munmap(self._address, self._size)


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _version(found: os.stat_result) -> tuple[int, int, int]:
    """Return what tells a file from another one of the same name."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def _keep(count: int) -> None:
    """Release mappings until `count` are left: those that were not used since the last time they were considered."""
    while len(_mapped) > count:
        oldest = _mapped.popleft()()
        if oldest is None:
            continue
        if count and oldest._used:
            oldest._used = False
            _mapped.append(weakref.ref(oldest))
        else:
            oldest._array = None


def _renew_lock() -> None:
    """Give a forked child a lock of its own: a thread that the child lacks may have held the parent's."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
