"""Atomic file writes (write, fsync, rename), also of JSON and JSONL.

A crash leaves the old file or the new one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import InputError

MAX_DEPTH = 32
"""Maximum nesting of a JSON document; a deeper one could exhaust the stack when it is processed."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: write it under a temporary name, fsync it and rename it.

    Raises OSError, which names the file, for example if the disk is full.
    """
    # the same folder: a rename is atomic only within one file system
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return an unused hidden name beside a path.

    Process ids alone are not unique: containers repeat them.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_folder(path: Path) -> None:
    """Remove a folder atomically.

    It is renamed first, so that a crash leaves no part of it under its name.
    """
    hidden = path if path.name.startswith(".") else path.rename(temporary_beside(path))
    shutil.rmtree(hidden, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or everything below a folder, to disk, so that it survives a power failure."""
    below = path.rglob("*") if path.is_dir() else ()
    for inner in [*below, path]:
        if inner.is_dir():
            sync_folder(inner)
        else:
            with inner.open("rb+") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises InputError if the file holds anything else, or more than `MAX_DEPTH` levels. `what` names
    the expected content in the message.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must hold {what}, but cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} must hold {what}, found no JSON object")
    if _is_deeper(document, MAX_DEPTH):
        raise InputError(f"{path} must hold {what}, found JSON of more than {MAX_DEPTH} levels")
    return document


def _is_deeper(document: Any, depth: int) -> bool:
    """Tell whether a JSON document has more levels than `depth`, without recursion."""
    level: list[Any] = [document]
    for _ in range(depth):
        below: list[Any] = []
        for value in level:
            below += _children(value)
        level = below
    return bool(level)


def _children(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with sorted keys and an indent of two."""
    write_atomically(path, json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file atomically, one object per line."""
    write_atomically(path, "".join(map(json_line, entries)))


def json_line(entry: Mapping[str, Any]) -> str:
    """Return one line of a JSONL file, with the line break."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


def append_lines(path: Path, lines: str) -> None:
    """Append whole lines to a file, which is created if missing.

    If a crash cut the last line short, the new lines start on a line of their own.
    """
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = f"\n{lines}"
        file.write(lines.encode())
