"""State of an audio file: size, modification time and fingerprint, to detect changes."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

FINGERPRINT_BYTES = 64 << 10
"""Number of bytes at the start and at the end of an audio file that its fingerprint covers."""


class FileState(NamedTuple):
    """State of a file; None: it cannot be read."""

    size: int | None
    """In bytes."""
    mtime_ns: int | None
    fingerprint: str | None
    """Result of `fingerprint`."""


UNKNOWN = FileState(None, None, None)


def file_state(path: Path) -> FileState:
    """Return the state of a file; its fingerprint is None unless it is a regular file."""
    try:
        status = path.stat()
    except OSError:
        return UNKNOWN
    # reading a named pipe might never end
    digest = fingerprint(path) if stat.S_ISREG(status.st_mode) else None
    return FileState(status.st_size, status.st_mtime_ns, digest)


def fingerprint(path: Path) -> str | None:
    """Hash the size and the first and last 64 KiB of a file; None if it cannot be read.

    Size and mtime alone can be equal in two corpora: archives and image layers set all mtimes to
    one value.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}|".encode() + file.read(FINGERPRINT_BYTES))
            # files up to 128 KiB are hashed completely, without reading any byte twice
            if size > FINGERPRINT_BYTES:
                file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
                digest.update(file.read(FINGERPRINT_BYTES))
    except OSError:
        return None
    return digest.hexdigest()[:32]
