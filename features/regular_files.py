"""Regular files: pipes and devices are refused, because reading them might never end."""

from __future__ import annotations

import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 4 << 20
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""Kinds of paths that are no regular files, in words."""


def read_regular(path: Path) -> bytes:
    """Read a regular file.

    Raises OSError if it does not exist, cannot be read or is of another kind.
    """
    kind = other_kind(path)
    if kind is not None:
        raise OSError(f"it must be a file, found {kind}")
    return path.read_bytes()


def read_blocks(path: Path) -> Iterator[bytes]:
    """Read a regular file in blocks; raises OSError as `read_regular` does."""
    kind = other_kind(path)
    if kind is not None:
        raise OSError(f"it must be a file, found {kind}")
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def other_kind(path: Path) -> str | None:
    """Return the kind of a path in words, such as `a folder`; None for a regular file.

    Raises OSError if the path does not exist.
    """
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no regular file")


def other_form(path: Path) -> str:
    """Return the end of a message if a path that does not exist has a twin in another Unicode form, else nothing.

    Archives from macOS hold such names (NFD): they look the same as what is typed (NFC).
    """
    for form in ("NFC", "NFD"):
        twin = Path(unicodedata.normalize(form, str(path)))
        if twin != path and twin.exists():
            return f"; the same name in Unicode form {form} does: write it in this form, or rename the file"
    return ""
