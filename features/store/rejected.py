"""rejected.jsonl: which utterances have no features in a store, and why.

A rejection of an input that is unchanged is settled: nobody tries it again unless asked to. While processes extract,
each appends what it rejects, so that the others know; at its end it rewrites the file without repetitions. Of several
entries of one utterance the last counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.inputs import input_key
from features.manifest import Utterance
from features.store.identity import StoreInfo, write_atomically
from features.store.locks import store_lock
from features.store.writer import disk_error

REJECTED_FILE = "rejected.jsonl"
Rejection = tuple[Utterance, str, str]
"""An utterance, the reason in a word, and the detail."""
UNSETTLED = frozenset({"out_of_memory"})
"""Reasons that lie in the machine, not in the input: another attempt may succeed."""


def rejection_entry(rejection: Rejection) -> dict[str, object]:
    """Return what rejected.jsonl says of one rejection."""
    utterance, reason, detail = rejection
    return {
        "utterance_id": utterance.utterance_id,
        "file": utterance.file,
        "line": utterance.line,
        "reason": reason,
        "detail": detail,
    }


class Rejections(Mapping[str, dict[str, Any]]):
    """The entries of a store's rejected.jsonl by utterance id; only what was added is read again."""

    def __init__(self, store: Path) -> None:
        self.path = store / REJECTED_FILE
        self._entries: dict[str, dict[str, Any]] = {}
        self._inode, self._offset = -1, 0
        self.refresh()

    def refresh(self) -> list[str]:
        """Read what was added since; return the ids of the entries read."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:  # rewritten
                    self._entries, self._inode, self._offset = {}, found.st_ino, 0
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            self._entries, self._inode, self._offset = {}, -1, 0
            return []
        whole, newline, _ = content.rpartition(b"\n")  # a last line without its end is still being written
        self._offset += len(whole) + len(newline)
        entries = [entry for entry in map(_parse, whole.split(b"\n")) if entry is not None]
        self._entries |= {entry["utterance_id"]: entry for entry in entries}
        return [entry["utterance_id"] for entry in entries]

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
        return utterance, entry["reason"], entry["detail"]


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


def append_rejected(info: StoreInfo, modality: str, rejections: Sequence[Rejection]) -> None:
    """Add rejections to rejected.jsonl, for the processes that extract into the same store."""
    if not rejections:
        return
    lines = "".join(_line(entry) for entry in _entries(modality, rejections).values())
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


def record_rejected(
    info: StoreInfo, modality: str, tried: Collection[str], rejections: Sequence[Rejection] = ()
) -> None:
    """Rewrite rejected.jsonl: these rejections, and what stood there of utterances that were not tried now."""
    path = info.path / REJECTED_FILE
    with store_lock(info.path):
        before = read_rejected(info.path)
        after = {name: entry for name, entry in before.items() if name not in tried}
        after |= _entries(modality, rejections)
        content = "".join(map(_line, after.values()))
        if not path.exists() and not after:
            return
        try:
            if not path.exists() or path.read_bytes() != content.encode():
                write_atomically(path, content)
        except OSError as error:
            raise disk_error(info, error) from error


def _entries(modality: str, rejections: Sequence[Rejection]) -> dict[str, dict[str, Any]]:
    return {
        rejection[0].utterance_id: {**rejection_entry(rejection), "input": input_key(rejection[0], modality)}
        for rejection in rejections
    }


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
