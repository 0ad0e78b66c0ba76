"""rejected.jsonl: which utterances have no features in a store, and why.

A rejection of an input that is unchanged is settled: nobody tries it again unless asked to. While processes extract,
each appends what it rejects, so that the others know; at its end it rewrites the file without repetitions. Of several
entries of one utterance the last counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.audio.segment import NOT_FOUND, SYSTEM_ERROR
from features.extraction.encoder_input import input_key
from features.manifests.manifest import Utterance
from features.store.identity import StoreInfo
from features.store.locks import store_lock
from features.store.writer import disk_error

REJECTED_FILE = "rejected.jsonl"
UNSETTLED = frozenset({"out_of_memory", SYSTEM_ERROR, NOT_FOUND})
"""Reasons that lie in the machine, not in the input: another attempt may succeed."""


@dataclass(frozen=True)
class Rejection:
    """An utterance that has no features, and why."""

    utterance: Utterance
    reason: str
    """In a word."""
    detail: str
    input: str | None = None
    """`input_key` of what was rejected, taken before it was read; None where it is inspected on every run anyway."""


def rejection_entry(rejection: Rejection) -> dict[str, object]:
    """Return what rejected.jsonl says of one rejection."""
    entry: dict[str, object] = {
        "utterance_id": rejection.utterance.utterance_id,
        "file": rejection.utterance.file,
        "line": rejection.utterance.line,
        "reason": rejection.reason,
        "detail": rejection.detail,
    }
    return entry if rejection.input is None else entry | {"input": rejection.input}


class Rejections(Mapping[str, dict[str, Any]]):
    """The entries of a store's rejected.jsonl by utterance id; the file is read again only if it has changed."""

    def __init__(self, store: Path) -> None:
        self.path = store / REJECTED_FILE
        self._entries: dict[str, dict[str, Any]] = {}
        self._read: tuple[int, int, int] | None = None
        """Inode, size and mtime of the file that was read."""
        self.refresh()

    def refresh(self) -> list[str]:
        """Read the file again if it was changed; return the ids whose entries are new or say something else."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                state = found.st_ino, found.st_size, found.st_mtime_ns
                if state == self._read:
                    return []
                content = file.read()
        except FileNotFoundError:
            self._entries, self._read = {}, None
            return []
        whole, _, _ = content.rpartition(b"\n")  # a last line without its end is still being written
        entries = [entry for entry in map(_parse, whole.split(b"\n")) if entry is not None]
        before, self._entries, self._read = self._entries, {entry["utterance_id"]: entry for entry in entries}, state
        return [name for name, entry in self._entries.items() if entry != before.get(name)]

    def __getitem__(self, utterance_id: str) -> dict[str, Any]:
        return self._entries[utterance_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def settled(self, utterance: Utterance, modality: str) -> Rejection | None:
        """Return the rejection of an utterance whose input is what was rejected; None if there is none."""
        entry = self._entries.get(utterance.utterance_id)
        if entry is None or entry["reason"] in UNSETTLED or "input" not in entry:
            return None
        if entry["input"] != input_key(utterance, modality):
            return None
        return Rejection(utterance, entry["reason"], entry["detail"], entry["input"])


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line; None for one that a crash cut short: its utterance is tried once more."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError too
        return None
    return entry if isinstance(entry, dict) and {"utterance_id", "reason", "detail"} <= entry.keys() else None


def read_rejected(store: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a store's rejected.jsonl by utterance id."""
    return dict(Rejections(store))


def append_rejected(info: StoreInfo, rejections: Sequence[Rejection]) -> None:
    """Add rejections to rejected.jsonl, for the processes that extract into the same store.

    InputError where the file cannot be written.
    """
    if not rejections:
        return
    lines = "".join(_line(entry) for entry in map(rejection_entry, rejections))
    path = info.path / REJECTED_FILE
    with store_lock(info.path):
        try:
            with path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    lines = lines if file.read(1) == b"\n" else f"\n{lines}"  # a crash left the last line unfinished
                file.write(lines.encode())
        except OSError as error:
            raise disk_error(info, error) from error


def record_rejected(info: StoreInfo, tried: Collection[str], rejections: Sequence[Rejection] = ()) -> None:
    """Rewrite rejected.jsonl: these rejections, and what stood there of utterances that were not tried now.

    A rejection that names no input keeps the one that stands there with the same reason. InputError where the file
    cannot be written.
    """
    path = info.path / REJECTED_FILE
    with store_lock(info.path):
        before = read_rejected(info.path)
        after = {name: entry for name, entry in before.items() if name not in tried}
        for rejection in rejections:
            name = rejection.utterance.utterance_id
            after[name] = _known_input(before.get(name, {}), rejection) | rejection_entry(rejection)
        content = "".join(map(_line, after.values()))
        if not path.exists() and not after:
            return
        try:
            if not path.exists() or path.read_bytes() != content.encode():
                write_atomically(path, content)
        except OSError as error:
            raise disk_error(info, error) from error


def _known_input(entry: Mapping[str, Any], rejection: Rejection) -> dict[str, Any]:
    """Return the input of an entry that says the same as a rejection; nothing if it says something else."""
    same = (entry.get("reason"), entry.get("detail")) == (rejection.reason, rejection.detail)
    return {"input": entry["input"]} if same and "input" in entry else {}


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
