"""Writing files so that a crash leaves the old content or the new: write, fsync, rename; JSON and JSONL."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.errors import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, fsync it and rename it: it is there whole or not at all.

    OSError names the file, also where it is the disk that is full.
    """
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
    """Return an unused hidden name beside a path; process numbers alone repeat from container to container."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_folder(path: Path) -> None:
    """Remove a folder, which vanishes from sight first: a crash leaves no part of it under its name."""
    gone = path if path.name.startswith(".") else path.rename(temporary_beside(path))
    shutil.rmtree(gone, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file, or everything below a folder, last through a power cut."""
    for inner in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if inner.is_dir():
            sync_folder(inner)
        else:
            with inner.open("rb+") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


MAX_DEPTH = 32
"""Levels of JSON; deeper documents are nobody's result, and would exhaust the stack."""


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; InputError that says `what` the file must hold where it holds anything else."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must hold {what}, but cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} must hold {what}, found no JSON object")
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [each for thing in level for each in _inside(thing)]
    if level:
        raise InputError(f"{path} must hold {what}, found JSON of more than {MAX_DEPTH} levels")
    return document


def _inside(thing: Any) -> Collection[Any]:
    if isinstance(thing, dict):
        return thing.values()
    return thing if isinstance(thing, list) else ()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file whole: sorted keys, two spaces."""
    write_atomically(path, json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file whole, one object a line."""
    write_atomically(path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
