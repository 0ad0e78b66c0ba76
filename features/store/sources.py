"""sources.jsonl: new sources of audio files that were touched or moved, but not changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from features.atomic_files import append_lines

SOURCES_FILE = "sources.jsonl"
SourceKey = tuple[str, str]
"""Utterance id and input_sha256."""


def read_sources(store: Path) -> dict[SourceKey, str]:
    """Return the recorded sources of a store; empty if the file does not exist."""
    try:
        lines = (store / SOURCES_FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    sources: dict[SourceKey, str] = {}
    for line in lines:
        # A crash can cut a line short. It is skipped: the audio is then compared once more.
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry["source"], str):
                sources[entry["utterance_id"], entry["input_sha256"]] = entry["source"]
    return sources


def append_sources(store: Path, sources: Mapping[SourceKey, str]) -> None:
    """Record sources; the last record of an utterance counts. Raises OSError if it fails."""
    lines = ""
    for (utterance_id, digest), source in sources.items():
        entry = {"utterance_id": utterance_id, "input_sha256": digest, "source": source}
        lines += json.dumps(entry) + "\n"
    append_lines(store / SOURCES_FILE, lines)
