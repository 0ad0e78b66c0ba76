"""Lock of a store, held briefly while its small files are rewritten.

The lock is also released if the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.store.claims import LOCK, Claims

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Error numbers of a file system that cannot lock files (Lustre mounted without `-o flock`)."""
WAIT_S = 0.1
"""Seconds between two attempts to claim the lock."""


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Let one process at a time run the block; on all machines if the file system supports it.

    If the file system cannot lock files, a claim replaces the lock.
    """
    with (store / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            with _claimed(store):
                yield
            return
        yield


@contextmanager
def _claimed(store: Path) -> Iterator[None]:
    """Run the block while this process holds the claim that replaces the lock."""
    with Claims([store]) as claims:
        while not claims.take(LOCK):
            time.sleep(WAIT_S)
            claims.sweep()
        yield
