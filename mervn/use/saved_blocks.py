"""SavedBlocks: results of a prediction by block, in a file from which the same command resumes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import json_line
from features.audio.file_state import fingerprint
from features.audio.segment import AudioError
from features.canonical import canonical_json, differing_fields
from features.errors import InputError, UsageError
from features.store.locks import NO_LOCKS
from mervn.use.clips import Clip

Array = np.ndarray[Any, Any]
SCHEMA = 1


@dataclass(frozen=True)
class ClipResult:
    """The result for one clip, on the labels of the model."""

    probabilities: Array | None
    """(C,) float64; None if the audio cannot be used."""
    fault: AudioError | None = None
    """Why there are no probabilities."""
    text: str | None = None
    """Text that speech recognition added; None for none."""


def state_path(output: Path) -> Path:
    """Return the file that keeps finished blocks, beside the output."""
    return output.with_name(f"{output.name}.state.jsonl")


class ContentKeys:
    """Computes keys of blocks that change with the content of their inputs; each file is read once."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[int, int, str | None] | None] = {}

    def key(self, clips: Sequence[Clip]) -> str:
        """Return the key of a block: a hash of its files, segments and texts, in order."""
        entries = []
        for clip in clips:
            audio = self._file(clip.audio) if isinstance(clip.audio, Path) else None
            entries.append([str(clip.audio), audio, clip.start, clip.end, clip.channel, clip.text])
        return hashlib.sha256(canonical_json(entries).encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _file(self, path: Path) -> tuple[int, int, str | None] | None:
        """Return size, modification time and fingerprint of a file; None if it cannot be read."""
        if path not in self._files:
            try:
                status = path.stat()
                self._files[path] = (status.st_size, status.st_mtime_ns, fingerprint(path))
            except OSError:
                self._files[path] = None
        return self._files[path]


class SavedBlocks:
    """Finished blocks of one output, one line per clip; lines are appended block by block.

    The first line names the model and the options that change numbers. A line that a crash cut, and
    everything after it, is removed. Only complete blocks without faults are used again.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], force: bool = False) -> None:
        """Open or create the file and lock it; `force` discards everything in it.

        UsageError if it holds results of another model or other options and `force` is not set.
        InputError if another process is writing to it, or if it cannot be written.
        """
        self.path = path
        self._blocks: dict[str, dict[int, ClipResult]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("ab+")
        except OSError as error:
            raise InputError(f"{path} must be a file that can be written, found: {error}") from error
        try:
            self._lock()
            self._read({"schema": SCHEMA, **identity}, force)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()

    def find(self, key: str, size: int) -> list[ClipResult] | None:
        """Return the results of a block of `size` clips; None if it must be computed."""
        found = self._blocks.get(key, {})
        if set(found) != set(range(size)) or any(one.fault is not None for one in found.values()):
            return None
        return [found[i] for i in range(size)]

    def add(self, key: str, results: Sequence[ClipResult]) -> None:
        """Append a finished block and flush it to disk."""
        lines = []
        for i, result in enumerate(results):
            entry: dict[str, Any] = {"block": key, "clip": i}
            if result.fault is not None:
                entry["error"] = [result.fault.reason, str(result.fault)]
            elif result.probabilities is not None:
                entry["probabilities"] = result.probabilities.tolist()
            if result.text is not None:
                entry["text"] = result.text
            lines.append(json_line(entry))
        self._file.write("".join(lines).encode("utf-8", "surrogatepass"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        """Lock the file against other processes; the lock ends with this process."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self.path} is being written by another process; wait for it") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise

    def _read(self, identity: Mapping[str, Any], force: bool) -> None:
        """Read the blocks; cut the file at the first line that is not whole."""
        self._file.seek(0)
        first = self._file.readline()
        header, position = _parse(first), len(first)
        expected = json_line(identity).encode()
        if header is None and not expected.startswith(first) and not force:
            raise UsageError(f"{self.path} must hold results of mervn predict, found another content; move it away")
        if header is not None and header != identity and not force:
            raise UsageError(self._difference(header, identity))
        if force or header != identity:
            position = 0
        else:
            for line in self._file:
                entry = _parse(line)
                if entry is None or not self._keep(entry):
                    break
                position += len(line)
        self._file.truncate(position)
        if position == 0:
            self._file.write(expected)
            self._file.flush()

    def _keep(self, entry: Mapping[str, Any]) -> bool:
        """Keep the result of a line; return whether the line is one."""
        key, number = entry.get("block"), entry.get("clip")
        if not isinstance(key, str) or not isinstance(number, int):
            return False
        error, probabilities, text = entry.get("error"), entry.get("probabilities"), entry.get("text")
        fault = AudioError(str(error[0]), str(error[1])) if isinstance(error, list) and len(error) == 2 else None
        if fault is None and not isinstance(probabilities, list):
            return False
        scores = None if fault is not None else np.array(probabilities, np.float64)
        self._blocks.setdefault(key, {})[number] = ClipResult(scores, fault, text)
        return True

    def _difference(self, header: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
        """Return the message of a file of another model or other options."""
        message = f"{self.path} holds results of another model or other options; choose another --output, or --force:"
        for key, (before, now) in differing_fields(header, identity).items():
            message += f"\n  {key}: {before!r} there, {now!r} now"
        return message


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a whole line, else None."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
