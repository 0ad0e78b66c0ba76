"""rejected.jsonl: utterances that have no features in a store, with the reason.

A rejection is settled while the utterance's input is unchanged: the utterance is not tried again
unless the user asks for it. During an extraction each process appends its rejections, so that other
processes see them. At its end it rewrites the file without duplicates. The last entry of an
utterance counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from features.atomic_files import append_lines, json_line, write_atomically
from features.audio.segment import NOT_FOUND, SYSTEM_ERROR
from features.extraction.encoder_input import input_key
from features.manifests.manifest import Utterance
from features.store.identity import StoreInfo
from features.store.locks import store_lock
from features.store.writer import disk_error

REJECTED_FILE = "rejected.jsonl"
UNSETTLED = frozenset({"out_of_memory", SYSTEM_ERROR, NOT_FOUND})
"""Reasons that depend on the machine, not on the input: another attempt may succeed."""


@dataclass(frozen=True)
class RejectedEntry:
    """One line of rejected.jsonl."""

    utterance_id: str
    file: str | None
    """File name of the manifest."""
    line: int | None
    """Line in the manifest."""
    reason: str
    """In one word."""
    detail: str
    input: str | None = None
    """`input_key` of the rejected input; None if every run reads the input anyway."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RejectedEntry:
        """Build an entry from its JSON object; raises ValueError if a key is missing or invalid."""
        file, line, key_of_input = document.get("file"), document.get("line"), document.get("input")
        for key in ("utterance_id", "reason", "detail"):
            if not isinstance(document.get(key), str):
                raise ValueError(f"{key} must be a string, found {document.get(key)!r}")
        if not isinstance(key_of_input, str | None):
            raise ValueError(f"input must be a string, found {key_of_input!r}")
        if not isinstance(file, str | None) or not isinstance(line, int | None):
            raise ValueError("file must be a string and line an integer")
        return cls(document["utterance_id"], file, line, document["reason"], document["detail"], key_of_input)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the line; keys without a value are left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Rejection:
    """An utterance that gets no features, with the reason."""

    utterance: Utterance
    reason: str
    """In one word."""
    detail: str
    input: str | None = None
    """`input_key` of the rejected input, taken before it was read; None if every run reads the
    input anyway."""

    @property
    def entry(self) -> RejectedEntry:
        """The line of rejected.jsonl."""
        utterance = self.utterance
        return RejectedEntry(
            utterance.utterance_id, utterance.file, utterance.line, self.reason, self.detail, self.input
        )


class Rejections(Mapping[str, RejectedEntry]):
    """Entries of a store's rejected.jsonl by utterance id.

    The file is read again only if it has changed.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / REJECTED_FILE
        self._entries: dict[str, RejectedEntry] = {}
        self._version: tuple[int, int, int] | None = None
        """Inode, size and mtime of the file that was read."""
        self.refresh()

    def refresh(self) -> list[str]:
        """Read the file again if it has changed.

        Returns the utterance ids of new and changed entries.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                # the size alone is not enough: a rewritten file can have the same size
                version = found.st_ino, found.st_size, found.st_mtime_ns
                if version == self._version:
                    return []
                content = file.read()
        except FileNotFoundError:
            self._entries, self._version = {}, None
            return []
        before, self._entries, self._version = self._entries, {}, version
        complete, _, _ = content.rpartition(b"\n")  # another process may be writing the last line
        for entry in map(_parse, complete.split(b"\n")):
            if entry is not None:
                self._entries[entry.utterance_id] = entry
        return [name for name, entry in self._entries.items() if entry != before.get(name)]

    def __getitem__(self, utterance_id: str) -> RejectedEntry:
        return self._entries[utterance_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def settled(self, utterance: Utterance, modality: str) -> Rejection | None:
        """Return the rejection of an utterance if its input is still the rejected one.

        Returns None otherwise.
        """
        entry = self._entries.get(utterance.utterance_id)
        if entry is None or entry.reason in UNSETTLED or entry.input is None:
            return None
        if entry.input != input_key(utterance, modality):
            return None
        return Rejection(utterance, entry.reason, entry.detail, entry.input)


def _parse(line: bytes) -> RejectedEntry | None:
    """Return the entry of a line.

    Returns None if a crash cut the line short: the utterance is then tried once more.
    """
    try:
        document = json.loads(line)
        return RejectedEntry.from_json(document) if isinstance(document, dict) else None
    except (ValueError, RecursionError):  # ValueError includes UnicodeDecodeError
        return None


def read_rejected(store: Path) -> dict[str, RejectedEntry]:
    """Return the entries of a store's rejected.jsonl by utterance id."""
    return dict(Rejections(store))


def append_rejected(info: StoreInfo, rejections: Sequence[Rejection]) -> None:
    """Append rejections to rejected.jsonl, for other processes that extract into the same store.

    Raises InputError if the file cannot be written.
    """
    if not rejections:
        return
    lines = "".join(_line(rejection.entry) for rejection in rejections)
    with store_lock(info.path):
        try:
            append_lines(info.path / REJECTED_FILE, lines)
        except OSError as error:
            raise disk_error(info, error) from error


def record_rejected(info: StoreInfo, tried: Collection[str], rejections: Sequence[Rejection] = ()) -> None:
    """Rewrite rejected.jsonl: these rejections, and the entries of utterances not tried now.

    `tried` are the ids of the utterances that were tried. A rejection without an input keeps the
    input of an existing entry with the same reason and detail. Raises InputError if the file cannot
    be written.
    """
    path = info.path / REJECTED_FILE
    try:
        if _changed_content(path, tried, rejections) is None:  # without the lock: the store may be read-only
            return
        with store_lock(info.path):
            content = _changed_content(path, tried, rejections)
            if content is not None:
                write_atomically(path, content)
    except OSError as error:
        raise disk_error(info, error) from error


def _changed_content(path: Path, tried: Collection[str], rejections: Sequence[Rejection]) -> str | None:
    """Return the new content of rejected.jsonl; None if it stays as it is."""
    before = read_rejected(path.parent)
    after = {name: entry for name, entry in before.items() if name not in tried}
    for rejection in rejections:
        entry = rejection.entry
        after[entry.utterance_id] = _with_known_input(entry, before.get(entry.utterance_id))
    content = "".join(map(_line, after.values()))
    current = path.read_bytes() if path.exists() else b""
    return None if current == content.encode() else content


def _with_known_input(entry: RejectedEntry, known: RejectedEntry | None) -> RejectedEntry:
    """Return an entry with the input of the known one, if both have the same reason and detail."""
    if known is None or entry.input is not None:
        return entry
    same = (known.reason, known.detail) == (entry.reason, entry.detail)
    return replace(entry, input=known.input) if same else entry


def _line(entry: RejectedEntry) -> str:
    return json_line(entry.as_json())
