"""audio_facts.json: what is known about audio files and their segments, so that none is read twice.

The file is in the features folder and has two sections, one entry per line: `files` has the header
of each file, which extraction reads, and `facts` the measurements of each segment, which the check
takes. Each entry has the size, mtime and fingerprint of its file: it counts only while they are the
same. The first line has a hash of the others: a file that was damaged or edited is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.regular_files import read_regular

FACTS_FILE = "audio_facts.json"
SCHEMA = 3
CHUNK = 1000
"""Number of entries that are parsed together."""
NO_SECTIONS = {"files": b"", "facts": b""}
"""Content of the sections, by name and in their order, if nothing is known."""
MIDDLE = b'\n], "facts": [\n'
"""Line between the two sections."""
READ_AGAIN = (".mp3", ".ogg", ".oga", ".opus")
"""Suffixes of files that an earlier version may have read in part."""
END = b"\n]}\n"
"""Last line of the file."""


def read_section(path: Path, name: str, fields: list[str]) -> Iterator[list[Any]]:
    """Yield the entries of a section, each with these fields.

    Yields none if the file does not exist, is damaged, or has other fields. ValueError for an entry
    that is not valid JSON.
    """
    head, sections = _read(path)
    if head.get(f"{name}_fields") != fields:
        return
    lines = BytesIO(sections[name])
    while chunk := list(islice(lines, CHUNK)):  # together: a call for each line would take longer
        yield from json.loads(b"[" + b"".join(chunk).rstrip(b",\n") + b"]")


def read_known(path: Path, name: str, fields: list[str], earlier: list[str]) -> Iterator[list[Any]]:
    """Yield the entries of a section as `read_section` does, or those that a version with other fields wrote.

    The first field is a path. An earlier version did not count the frames of MP3 files and did not look for a second
    stream of audio: what it wrote about such files is left out.
    """
    yield from read_section(path, name, fields)
    for entry in read_section(path, name, earlier):
        if not str(entry[0]).lower().endswith(READ_AGAIN):
            yield entry


def write_section(path: Path, name: str, fields: list[str], entries: Iterable[Iterable[Any]]) -> None:
    """Write the entries of a section atomically; the other section stays. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head, sections = _read(path)
    lines = [json.dumps(entry, ensure_ascii=False).encode() for entry in entries]
    sections = {**sections, name: b",\n".join(lines)}
    body = MIDDLE.join(sections.values()) + END
    document = {
        "schema": SCHEMA,
        "sha256": hashlib.sha256(body).hexdigest(),
        "files_fields": head.get("files_fields", []),
        "facts_fields": head.get("facts_fields", []),
        f"{name}_fields": fields,
    }
    first = json.dumps(document)[:-1] + ', "files": [\n'
    write_atomically(path, first.encode() + body)


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """Return the first line without the sections, and the sections; nothing if the file is damaged."""
    try:
        first, _, body = read_regular(path).partition(b"\n")
        document = json.loads(first + b"]}")
        if document["schema"] != SCHEMA or document["sha256"] != hashlib.sha256(body).hexdigest():
            return {}, NO_SECTIONS
        files, middle, facts = body.removesuffix(END).partition(MIDDLE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}, NO_SECTIONS
    return (document, {"files": files, "facts": facts}) if middle else ({}, NO_SECTIONS)
