"""Memory-mapped arrays: an array is mapped at its first read, and no file stays open.

Python's `mmap` (3.11) keeps a file descriptor open per mapping, and a large store would exceed the
process's limit. The system call itself needs no descriptor after the file is mapped, so this module
calls it directly.
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
"""Maximum number of arrays that one process keeps mapped; Linux allows about 65 000."""

_lock = threading.RLock()
_mapped: deque[weakref.ref[MappedArray]] = deque()
"""The arrays that are mapped now, in the order in which `_keep` looks at them."""


class _Shared:
    """An array's memory, not marked as read-only."""

    def __init__(self, array: Array) -> None:
        self.array = array  # keeps the memory
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def unmarked(array: Array) -> Array:
    """Return an array that shares the memory of a read-only one and is not marked as such, for `torch.from_numpy`.

    Nothing must be written to it.
    """
    return np.asarray(_Shared(array))


class MappedArray:
    """A read-only array (N, D) in a file, at `offset` bytes from its start.

    A mapping that was released is mapped again at the next read. The constructor raises ValueError
    if the file is shorter than the array. `array` raises FileNotFoundError if the file no longer
    exists or was replaced by another one.
    """

    def __init__(self, file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, int]) -> None:
        self.file, self.dtype, self.offset, self.shape = file, dtype, offset, shape
        self.nbytes = shape[0] * shape[1] * dtype.itemsize
        self._version = _version(file.stat())
        self._array: Array | None = None if self.nbytes else np.zeros(shape, dtype)
        self._unmarked: Array | None = None
        self._used = False
        needed, size = offset + self.nbytes, self._version[1]
        if self.nbytes and size < needed:
            raise ValueError(f"it must be at least {needed} bytes long, found {size}")

    def array(self) -> Array:
        """Return the array; it stays valid while the caller holds it or a slice of it."""
        found = self._array
        if found is None:
            found = self._map()
        self._used = True
        return found

    def unmarked(self) -> Array:
        """Return `unmarked` of the array; it is made once per mapping."""
        found = self._unmarked
        if found is None:
            with _lock:  # not while another thread releases the mapping
                found = self._unmarked = unmarked(self.array())
        self._used = True
        return found

    def _map(self) -> Array:
        """Map the array unless another thread did, and release others if there are too many."""
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
                _mapped.append(weakref.ref(self))  # weak: the list must not keep arrays alive
            return self._array

    def _open(self) -> Array:
        """Map the file; raises FileNotFoundError if another file has its name now."""
        descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _version(os.fstat(descriptor)) != self._version:
                raise FileNotFoundError(errno.ENOENT, "replaced by another file", str(self.file))
            # map from the start of the file: an offset would have to be a multiple of the page size
            pages = _Pages(descriptor, self.offset + self.nbytes)
        finally:
            os.close(descriptor)
        data: Array = np.asarray(pages)[self.offset :].view(self.dtype).reshape(self.shape)
        return data


class _Pages:
    """Mapped pages of a file, unmapped when no array refers to them any more."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._address, self._size, self._libc = None, size, _libc()
        address = self._libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address
        # numpy keeps this object alive as the base of the array; True: read-only
        data = (address, True)
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": data}

    def __del__(self) -> None:
        if self._address is not None:
            self._libc.munmap(self._address, self._size)


@cache
def _libc() -> Any:
    """Return the C library, with the types of mmap and munmap."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _version(found: os.stat_result) -> tuple[int, int, int]:
    """Return inode, size and mtime, which differ if another file has the same name now."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def _keep(count: int) -> None:
    """Release mappings until `count` are left.

    A mapping used since the last pass gets a second chance (CLOCK).
    """
    while len(_mapped) > count:
        oldest = _mapped.popleft()()
        if oldest is None:  # the array was deleted
            continue
        if count and oldest._used:
            oldest._used = False
            _mapped.append(weakref.ref(oldest))
        else:
            oldest._array = oldest._unmarked = None


def _renew_lock() -> None:
    """Give a forked child a new lock: a thread of the parent may hold the old one."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
