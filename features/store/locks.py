"""A lock for the short moments in which a store's own small files are rewritten; it goes with the process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Keep other processes of this machine, and of others where the file system can, out of the block."""
    with (store / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
