"""Manifests: train.jsonl, valid.jsonl and test.jsonl of a data folder, read with every fault at once."""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from features.errors import InputError, UsageError
from features.manifests.faults import Fault, describe_faults
from features.manifests.fields import FieldError, meant, parse_fields, shown
from features.manifests.label_names import lookalikes
from features.regular_files import other_kind, read_regular

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OPTIONAL = ("speaker_id", "transcript")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest."""

    utterance_id: str
    speaker_id: str | None
    """None: unknown."""
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
    """NFC, without white space at its ends."""
    split: str
    file: str
    """The manifest's name, for messages."""
    line: int
    extra: Mapping[str, Any]
    """Keys that are not of the format; kept, and passed on into predictions."""


class Manifests(dict[str, list[Utterance]]):
    """The utterances of each split, and the hashes of the bytes that they were read from."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256: dict[str, str] = {}


def read_manifests(
    data: Path,
    splits: Sequence[str],
    *,
    audio_root: Path | None = None,
    require_emotion: bool = True,
    check_audio: bool = True,
    labels_of_train: bool = True,
    task_label: Callable[[str], str | None] = str,
) -> Manifests:
    """Read the manifests of these splits, and no other; return their utterances and the hashes of the files.

    UsageError if a folder does not exist. Raises one InputError that lists every fault of every file with its line:
    bad JSON, missing, misspelt or ill-typed fields, times that are not finite, negative or out of order, an id used
    twice, what could not be written into predictions, missing audio files (if `check_audio`), an empty or missing
    manifest. If `require_emotion`, also labels that only look different, and (if `labels_of_train`) a label that train
    does not have, where train is read; `task_label` says what becomes of an emotion first, None if it is left out.
    """
    if not data.is_dir():
        raise UsageError(
            f'the data folder {data} does not exist; give it with --data DIR or as `data = "DIR"` in mervn.toml'
        )
    if audio_root is not None and not audio_root.is_dir():
        raise UsageError(f"--audio-root must be a folder, there is no {audio_root}")
    faults: list[Fault] = []
    manifests = Manifests()
    for split in splits:
        reader = _Reader(data / f"{split}.jsonl", split, audio_root or data, require_emotion, faults)
        manifests[split], manifests.sha256[split] = reader.read(), reader.sha256
    _check_ids(manifests, faults)
    named = {split: _task_labels(rows, task_label) for split, rows in manifests.items() if require_emotion}
    same = _check_lookalikes(named, faults)
    if labels_of_train:
        _check_labels(named, same, faults)
    if check_audio:
        _check_audio(manifests, faults)
    if faults:
        raise InputError(describe_faults(faults, data))
    return manifests


class _Reader:
    """Reads one manifest and gathers its faults."""

    def __init__(self, path: Path, split: str, audio_root: Path, require_emotion: bool, faults: list[Fault]) -> None:
        self.path, self.split, self.audio_root = path, split, audio_root
        self.require_emotion, self.faults = require_emotion, faults
        self.sha256 = ""
        """Of the bytes that were read."""
        self.near: dict[tuple[str, str], list[int]] = {}
        """By optional field and a key that may be a misspelling of it the lines."""

    def read(self) -> list[Utterance]:
        try:
            content = read_regular(self.path)
        except FileNotFoundError:
            self._fault(0, f"there is no {self.path}")
            return []
        except OSError as error:
            self._fault(0, f"{self.path} cannot be read: {error}")
            return []
        self.sha256 = hashlib.sha256(content).hexdigest()
        lines = content.removeprefix(BYTE_ORDER_MARK).splitlines()
        first = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
        if first is None:
            self._fault(0, "must hold at least one utterance, found none")
            return []
        form = _other_form(lines[first - 1].strip())
        if form is not None:
            self._fault(first, f"must be JSON Lines, one JSON object per line; this looks like {form}")
            return []
        utterances = [self._line(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        found = [utterance for utterance in utterances if utterance is not None]
        _warn_of_synonyms(found)
        for (field, key), places in self.near.items():
            count = "1 line" if len(places) == 1 else f"{len(places)} lines"
            message = f"{self.path.name}:{places[0]}: {shown(key)} is no field of a manifest; did you mean {field}?"
            warnings.warn(f"{message} ({count})", stacklevel=2)
        return found

    def _fault(self, line: int, rule: str, found: str = "") -> None:
        self.faults.append(Fault(self.path.name, line, rule, found))

    def _line(self, number: int, line: bytes) -> Utterance | None:
        try:
            document = json.loads(line.decode("utf-8"), object_pairs_hook=_without_duplicates)
        except UnicodeDecodeError as error:
            self._fault(number, "must be UTF-8", f", found {error.reason} at byte {error.start}")
        except RecursionError:
            self._fault(number, "must be one JSON object", ", found lists or objects nested too deeply to be read")
        except ValueError as error:
            self._fault(number, "must be one JSON object", f", found: {error}")
        else:
            return self._utterance(document, number)
        return None

    def _utterance(self, document: object, line: int) -> Utterance | None:
        if not isinstance(document, dict):
            self._fault(line, "must be a JSON object", f", found {type(document).__name__}")
            return None
        fields = parse_fields(document)
        values, faults = fields.values, list(fields.faults)
        if self.require_emotion and "emotion" in values and values["emotion"] is None:
            near = meant("emotion", document) or fields.near.pop("emotion", None)
            hint = f"; is it the key {near!r}? Call it emotion" if near else ""
            faults.append(FieldError(f"emotion is missing: it must be a label{hint}"))
        for field, key in fields.near.items():
            self.near.setdefault((field, key), []).append(line)
        start, end = values.get("start", 0.0), values.get("end")
        if end is not None and end <= start:
            faults.append(FieldError("end must be greater than start", f", found start={start} end={end}"))
        for fault in faults:
            self._fault(line, fault.rule, fault.found)
        if faults:
            return None
        return Utterance(
            **values,
            audio_path=self.audio_root / values["wav_path"],
            split=self.split,
            file=self.path.name,
            line=line,
            extra=fields.extra,
        )


def _other_form(line: bytes) -> str | None:
    """Return what a file looks like by its first line, if that is not JSON Lines."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16; save it as UTF-8"
    if line == b"{":
        return "indented JSON"
    if line.startswith(b"["):
        return "one JSON array"
    if not line.startswith(b"{") and any(separator in line for separator in (b",", b";", b"\t", b"|")):
        return f"CSV, found {shown(line.decode('utf-8', 'replace'))}"
    return None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return document


def _warn_of_synonyms(utterances: Sequence[Utterance]) -> None:
    """Warn where no line has an optional field, but all have a key that may have been meant for it."""
    for field in OPTIONAL:
        near = meant(field, utterances[0].extra) if utterances else None
        if near is not None and all(getattr(u, field) is None and near in u.extra for u in utterances):
            file = utterances[0].file
            warnings.warn(f"{file}: no line has {field}, but all have {near!r}; did you mean {field}?", stacklevel=2)


def _check_ids(manifests: Mapping[str, list[Utterance]], faults: list[Fault]) -> None:
    seen: dict[str, Utterance] = {}
    for utterance in (u for rows in manifests.values() for u in rows):
        first = seen.setdefault(utterance.utterance_id, utterance)
        if first is not utterance:
            found = f", found {utterance.utterance_id!r} in {first.file}:{first.line} too"
            faults.append(Fault(utterance.file, utterance.line, "utterance_id must be unique", found))


Named = list[tuple[Utterance, str]]
"""Utterances with their label of the task."""


def _task_labels(rows: Sequence[Utterance], task_label: Callable[[str], str | None]) -> Named:
    named = [(u, task_label(u.emotion)) for u in rows if u.emotion is not None]
    return [(utterance, label) for utterance, label in named if label is not None]


def _check_lookalikes(manifests: Mapping[str, Named], faults: list[Fault]) -> dict[str, str]:
    """Find labels that only look different; return them with what they look like."""
    first: dict[str, Utterance] = {}
    every = [pair for named in manifests.values() for pair in named]
    for utterance, label in every:
        first.setdefault(label, utterance)
    same = {label: before for before, label in lookalikes(first)}
    for utterance, label in every:
        if label in same:
            before = same[label]
            place = f"{first[before].file}:{first[before].line}"
            rule = f"emotion {label!r} only looks different from {before!r} of {place}"
            hint = f"; write them alike, or train with --label-map {shlex.quote(f'{label}={before}')}"
            faults.append(Fault(utterance.file, utterance.line, rule, hint))
    return same


def _check_labels(manifests: Mapping[str, Named], same: Mapping[str, str], faults: list[Fault]) -> None:
    known = {label for _, label in manifests.get("train", [])}
    if not known:
        return
    names = ", ".join(sorted(known))
    for split, named in manifests.items():
        for utterance, label in named:
            if split != "train" and label not in known and label not in same:
                rule = f"emotion must be a label of train ({names})"
                faults.append(Fault(utterance.file, utterance.line, rule, f", found {label!r}"))


def _check_audio(manifests: Mapping[str, list[Utterance]], faults: list[Fault]) -> None:
    found: dict[Path, str | None] = {}
    for utterance in (u for rows in manifests.values() for u in rows):
        path = utterance.audio_path
        if path not in found:
            found[path] = _audio_fault(path)
        if found[path] is not None:
            faults.append(Fault(utterance.file, utterance.line, "wav_path must be a file", f", {found[path]}"))


def _audio_fault(path: Path) -> str | None:
    try:
        kind = other_kind(path)
    except OSError as error:
        return f"there is no {path}" if isinstance(error, FileNotFoundError) else f"found {error}"
    return f"found {kind}: {path}" if kind else None
