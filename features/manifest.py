"""Manifests: train.jsonl, valid.jsonl and test.jsonl of a data folder, read with every fault at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from features.errors import InputError

FIELDS = frozenset({"utterance_id", "speaker_id", "wav_path", "start", "end", "channel", "transcript", "emotion"})
FAULTS_SHOWN = 50
MAX_ID_LENGTH = 256
MAX_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest."""

    utterance_id: str
    speaker_id: str
    wav_path: str
    """As written."""
    audio_path: Path
    """Where that is: relative to the manifest's folder or the audio root."""
    start: float
    """Seconds."""
    end: float | None
    """Seconds; None: the file's end."""
    channel: int | Literal["mix"]
    transcript: str | None
    emotion: str | None
    split: str
    file: str
    """The manifest's name, for messages."""
    line: int
    extra: Mapping[str, Any]
    """Keys that are not of the format; kept, and passed on into predictions."""


class _FaultError(Exception):
    """What is wrong with one field."""


def manifest_sha256(path: Path) -> str:
    """Hash a manifest's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifests(
    data: Path,
    splits: Sequence[str],
    *,
    audio_root: Path | None = None,
    require_emotion: bool = True,
    check_audio: bool = True,
) -> dict[str, list[Utterance]]:
    """Read the manifests of these splits, and no other.

    Raises one InputError that lists every fault of every file with its line: bad JSON, missing or ill-typed fields,
    times that are not finite, negative or out of order, an id used twice, a label that train does not have (where
    train is read), missing audio files (if `check_audio`), an empty or missing manifest.
    """
    if not data.is_dir():
        raise InputError(
            f'the data folder {data} is not there; give it with --data DIR or as `data = "DIR"` in mervn.toml'
        )
    faults: list[str] = []
    manifests = {}
    for split in splits:
        reader = _Reader(data / f"{split}.jsonl", split, audio_root or data, require_emotion, faults)
        manifests[split] = reader.read()
    _check_ids(manifests, faults)
    _check_labels(manifests, faults)
    if check_audio:
        _check_audio(manifests, faults)
    if faults:
        shown = faults[:FAULTS_SHOWN]
        more = [f"and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError("\n".join([f"{count} in the manifests of {data}:", *shown, *more]))
    return manifests


class _Reader:
    """Reads one manifest and gathers its faults."""

    def __init__(self, path: Path, split: str, audio_root: Path, require_emotion: bool, faults: list[str]) -> None:
        self.path, self.split, self.audio_root = path, split, audio_root
        self.require_emotion, self.faults = require_emotion, faults

    def read(self) -> list[Utterance]:
        try:
            lines = self.path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
        except FileNotFoundError:
            self.faults.append(f"{self.path.name}: there is no {self.path}")
            return []
        except OSError as error:
            self.faults.append(f"{self.path.name}: {self.path} cannot be read: {error}")
            return []
        utterances = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                document = json.loads(line.decode("utf-8"), object_pairs_hook=_without_duplicates)
            except UnicodeDecodeError as error:
                self._fault(number, f"must be UTF-8, found {error.reason} at byte {error.start}")
            except (ValueError, RecursionError) as error:
                self._fault(number, f"must be one JSON object, found: {error}")
            else:
                utterance = self._utterance(document, number)
                if utterance is not None:
                    utterances.append(utterance)
        if not utterances and not any(line.strip() for line in lines):
            self.faults.append(f"{self.path.name}: must hold at least one utterance, found none")
        return utterances

    def _fault(self, line: int, text: str) -> None:
        self.faults.append(f"{self.path.name}:{line}: {text}")

    def _utterance(self, document: object, line: int) -> Utterance | None:
        if not isinstance(document, dict):
            self._fault(line, f"must be a JSON object, found {type(document).__name__}")
            return None
        found: dict[str, Any] = {}
        before = len(self.faults)
        for field, parse in _PARSERS.items():
            try:
                found[field] = parse(document, field)
            except _FaultError as fault:
                self._fault(line, str(fault))
        if self.require_emotion and "emotion" in found and found["emotion"] is None:
            self._fault(line, "emotion is missing: it must be a label")
        start, end = found.get("start", 0.0), found.get("end")
        if end is not None and end <= start:
            self._fault(line, f"end must be greater than start, found start={start} end={end}")
        if len(self.faults) > before:
            return None
        return Utterance(
            **found,
            audio_path=self.audio_root / found["wav_path"],
            split=self.split,
            file=self.path.name,
            line=line,
            extra={key: value for key, value in document.items() if key not in FIELDS},
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return document


def _text(document: Mapping[str, Any], field: str) -> str:
    if field not in document:
        raise _FaultError(f"{field} is missing")
    value = document[field]
    if not isinstance(value, str) or not value.strip():
        raise _FaultError(f"{field} must be a non-empty string, found {value!r}")
    if not value.isprintable():
        raise _FaultError(f"{field} must not hold control characters, found {value!r}")
    return value


def _id(document: Mapping[str, Any], field: str) -> str:
    value = _text(document, field)
    if len(value) > MAX_ID_LENGTH:
        raise _FaultError(f"{field} must have at most {MAX_ID_LENGTH} characters, found {len(value)}")
    return value


def _time(document: Mapping[str, Any], field: str) -> float | None:
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _FaultError(f"{field} must be a number of seconds, found {value!r}")
    seconds = float(value) if abs(value) < MAX_SECONDS else math.inf  # an int can be too large for a float
    if not math.isfinite(seconds) or seconds < 0:
        raise _FaultError(f"{field} must be finite and at least 0, found {value}")
    return seconds


def _start(document: Mapping[str, Any], field: str) -> float:
    return _time(document, field) or 0.0


def _channel(document: Mapping[str, Any], field: str) -> int | str:
    value = document.get(field, "mix")
    if value == "mix" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return str(value) if isinstance(value, str) else int(value)
    raise _FaultError(f"{field} must be 0, 1, ... or 'mix', found {value!r}")


def _transcript(document: Mapping[str, Any], field: str) -> str | None:
    value = document.get(field)
    if value is None or isinstance(value, str):
        return value
    raise _FaultError(f"{field} must be a string or null, found {value!r}")


def _emotion(document: Mapping[str, Any], field: str) -> str | None:
    return None if document.get(field) is None else _text(document, field)


_PARSERS = {
    "utterance_id": _id,
    "speaker_id": _id,
    "wav_path": _text,
    "start": _start,
    "end": _time,
    "channel": _channel,
    "transcript": _transcript,
    "emotion": _emotion,
}


def _check_ids(manifests: Mapping[str, list[Utterance]], faults: list[str]) -> None:
    seen: dict[str, Utterance] = {}
    for utterance in (u for rows in manifests.values() for u in rows):
        first = seen.setdefault(utterance.utterance_id, utterance)
        if first is not utterance:
            faults.append(
                f"{utterance.file}:{utterance.line}: utterance_id must be unique, found {utterance.utterance_id!r} "
                f"in {first.file}:{first.line} too"
            )


def _check_labels(manifests: Mapping[str, list[Utterance]], faults: list[str]) -> None:
    known = {u.emotion for u in manifests.get("train", [])}
    if not known:
        return
    names = ", ".join(sorted(str(label) for label in known))
    for split, rows in manifests.items():
        for utterance in rows:
            if split != "train" and utterance.emotion is not None and utterance.emotion not in known:
                faults.append(
                    f"{utterance.file}:{utterance.line}: emotion must be a label of train ({names}), "
                    f"found {utterance.emotion!r}"
                )


def _check_audio(manifests: Mapping[str, list[Utterance]], faults: list[str]) -> None:
    there: dict[Path, bool] = {}
    for utterance in (u for rows in manifests.values() for u in rows):
        path = utterance.audio_path
        if path not in there:
            there[path] = path.is_file()
        if not there[path]:
            faults.append(f"{utterance.file}:{utterance.line}: wav_path must be a file, there is no {path}")
