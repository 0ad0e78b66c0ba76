"""Manifests: train.jsonl, valid.jsonl and test.jsonl; all faults are reported at once."""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from features.errors import InputError, UsageError
from features.manifests.faults import Fault, describe_faults
from features.manifests.fields import FieldError, find_synonym, parse_fields, short_repr
from features.manifests.json_lines import object_without_duplicates, other_format
from features.manifests.label_names import lookalikes
from features.regular_files import other_kind, read_regular

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OFTEN_RENAMED = ("speaker_id", "transcript")
"""Optional fields for which a warning suggests a synonym that all lines have instead."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest."""

    utterance_id: str
    speaker_id: str | None
    """None: unknown."""
    wav_path: str
    """As written in the manifest."""
    audio_path: Path
    """`wav_path`; if it is relative, below the audio root or the manifest's folder."""
    start: float
    """In seconds."""
    end: float | None
    """In seconds; None: the end of the file."""
    channel: int | Literal["mix"]
    """Index of a channel, or the mean of all channels."""
    transcript: str | None
    emotion: str | None
    """The label, in NFC without leading and trailing white space."""
    split: str
    file: str
    """File name of the manifest, for messages."""
    line: int
    """Line of the manifest, from 1."""
    extra: Mapping[str, Any]
    """Keys that are no fields of a manifest; copied into predictions."""


class Manifests(dict[str, list[Utterance]]):
    """The utterances of each split, and the SHA-256 of each manifest."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256: dict[str, str] = {}

    def all_utterances(self) -> Iterator[Utterance]:
        """Iterate over the utterances of all splits."""
        return chain.from_iterable(self.values())

    def by_id(self) -> dict[str, Utterance]:
        """Return the utterances of all splits by their id, in manifest order."""
        return {utterance.utterance_id: utterance for utterance in self.all_utterances()}


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
    """Read the manifests of these splits, and no others; return their utterances and hashes.

    `task_label` maps an emotion to the label of the task, or to None to leave it out.

    Raises UsageError if a folder does not exist. Raises one InputError, which lists every fault of
    every file with its line: an empty or missing manifest, invalid JSON, missing, misspelt or
    ill-typed fields, times that are not finite, negative or out of order, duplicate ids, extra keys
    that cannot be written into predictions, missing audio files (if `check_audio`). If
    `require_emotion`, also different labels that look the same, and (if `labels_of_train` and train
    is read) labels that train does not have.
    """
    _check_folders(data, audio_root)
    faults: list[Fault] = []
    manifests = Manifests()
    for split in splits:
        reader = _Reader(data / f"{split}.jsonl", split, audio_root or data, require_emotion, faults)
        manifests[split], manifests.sha256[split] = reader.read(), reader.sha256
    _check_ids(manifests, faults)
    if require_emotion:
        labelled = {split: _task_labels(utterances, task_label) for split, utterances in manifests.items()}
        same = _check_lookalikes(labelled, faults)
        if labels_of_train:
            _check_labels(labelled, same, faults)
    if check_audio:
        _check_audio(manifests, faults)
    if faults:
        raise InputError(describe_faults(faults, data))
    return manifests


def _check_folders(data: Path, audio_root: Path | None) -> None:
    """Raise UsageError if a folder does not exist."""
    if not data.is_dir():
        raise UsageError(
            f'the data folder {data} does not exist; set it with --data DIR or as `data = "DIR"` in mervn.toml'
        )
    if audio_root is not None and not audio_root.is_dir():
        raise UsageError(f"--audio-root must be a folder, but {audio_root} does not exist")


class _Reader:
    """Reads one manifest and collects its faults."""

    def __init__(self, path: Path, split: str, audio_root: Path, require_emotion: bool, faults: list[Fault]) -> None:
        self.path, self.split, self.audio_root = path, split, audio_root
        self.require_emotion, self.faults = require_emotion, faults
        self.sha256 = ""
        """Hex digest of the bytes of the file."""
        self.similar: dict[tuple[str, str], list[int]] = {}
        """(optional field, key that may be a misspelling of it) -> lines with that key."""

    def read(self) -> list[Utterance]:
        """Return the valid utterances, warn of suspicious keys and record the faults."""
        try:
            content = read_regular(self.path)
        except FileNotFoundError:
            self._fault(0, f"{self.path} does not exist")
            return []
        except OSError as error:
            self._fault(0, f"{self.path} cannot be read: {error}")
            return []
        self.sha256 = hashlib.sha256(content).hexdigest()
        lines = content.removeprefix(BYTE_ORDER_MARK).splitlines()
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not numbered:
            self._fault(0, "must hold at least one utterance, found none")
            return []
        first, start = numbered[0]
        form = other_format(start.strip())
        if form is not None:
            self._fault(first, f"must be JSON Lines, one JSON object per line; this looks like {form}")
            return []
        utterances = []
        for number, line in numbered:
            utterance = self._line(number, line)
            if utterance is not None:
                utterances.append(utterance)
        _warn_of_synonyms(utterances)
        self._warn_of_similar_keys()
        return utterances

    def _warn_of_similar_keys(self) -> None:
        for (field, key), lines in self.similar.items():
            count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
            message = f"{self.path.name}:{lines[0]}: {short_repr(key)} is not a field of a manifest"
            warnings.warn(f"{message}; did you mean {field}? ({count})", stacklevel=3)

    def _fault(self, line: int, rule: str, found: str = "") -> None:
        self.faults.append(Fault(self.path.name, line, rule, found))

    def _line(self, number: int, line: bytes) -> Utterance | None:
        """Parse one line; return None if it has a fault."""
        try:
            document = json.loads(line.decode("utf-8"), object_pairs_hook=object_without_duplicates)
        except UnicodeDecodeError as error:
            self._fault(number, "must be UTF-8", f", found {error.reason} at byte {error.start}")
        except RecursionError:
            self._fault(number, "must be one JSON object", ", found lists or objects that are nested too deeply")
        except ValueError as error:
            self._fault(number, "must be one JSON object", f", found: {error}")
        else:
            return self._utterance(document, number)
        return None

    def _utterance(self, document: object, line: int) -> Utterance | None:
        """Check the JSON value of one line; return None if it has a fault."""
        if not isinstance(document, dict):
            self._fault(line, "must be a JSON object", f", found {type(document).__name__}")
            return None
        fields = parse_fields(document)
        values, faults = fields.values, list(fields.faults)
        if self.require_emotion and "emotion" in values and values["emotion"] is None:
            similar = find_synonym("emotion", document) or fields.similar.pop("emotion", None)
            hint = f"; is it the key {similar!r}? Rename it to emotion" if similar else ""
            faults.append(FieldError(f"emotion is missing: it must be a label{hint}"))
        for field, key in fields.similar.items():
            self.similar.setdefault((field, key), []).append(line)
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


def _warn_of_synonyms(utterances: Sequence[Utterance]) -> None:
    """Warn if no line has an optional field, but all lines have the same synonym of it."""
    for field in OFTEN_RENAMED:
        synonym = find_synonym(field, utterances[0].extra) if utterances else None
        if synonym is not None and all(getattr(u, field) is None and synonym in u.extra for u in utterances):
            message = f"no line has {field}, but all have {synonym!r}; did you mean {field}?"
            warnings.warn(f"{utterances[0].file}: {message}", stacklevel=2)


def _check_ids(manifests: Manifests, faults: list[Fault]) -> None:
    """Add a fault for each utterance whose id another utterance has, in any split."""
    first_with: dict[str, Utterance] = {}
    for utterance in manifests.all_utterances():
        first = first_with.setdefault(utterance.utterance_id, utterance)
        if first is not utterance:
            found = f", found {utterance.utterance_id!r} in {first.file}:{first.line} too"
            faults.append(Fault(utterance.file, utterance.line, "utterance_id must be unique", found))


Labelled = list[tuple[Utterance, str]]
"""Utterances with their label of the task."""


def _task_labels(utterances: Sequence[Utterance], task_label: Callable[[str], str | None]) -> Labelled:
    """Return the utterances that have a label of the task, with it."""
    labelled = []
    for utterance in utterances:
        label = task_label(utterance.emotion) if utterance.emotion is not None else None
        if label is not None:
            labelled.append((utterance, label))
    return labelled


def _check_lookalikes(manifests: Mapping[str, Labelled], faults: list[Fault]) -> dict[str, str]:
    """Add a fault for each label that looks the same as an earlier one; return {later: earlier}."""
    first: dict[str, Utterance] = {}
    pairs = list(chain.from_iterable(manifests.values()))
    for utterance, label in pairs:
        first.setdefault(label, utterance)
    same = {later: earlier for earlier, later in lookalikes(first)}
    for utterance, label in pairs:
        if label in same:
            before = same[label]
            place = f"{first[before].file}:{first[before].line}"
            rule = f"emotion {label!r} looks the same as {before!r} in {place}"
            hint = f"; use one spelling, or train with --label-map {shlex.quote(f'{label}={before}')}"
            faults.append(Fault(utterance.file, utterance.line, rule, hint))
    return same


def _check_labels(manifests: Mapping[str, Labelled], same: Mapping[str, str], faults: list[Fault]) -> None:
    """Add a fault for each label that train does not have; those in `same` have one already."""
    known = {label for _, label in manifests.get("train", [])}
    if not known:
        return
    names = ", ".join(sorted(known))
    for split, labelled in manifests.items():
        for utterance, label in labelled:
            if split != "train" and label not in known and label not in same:
                rule = f"emotion must be a label of train ({names})"
                faults.append(Fault(utterance.file, utterance.line, rule, f", found {label!r}"))


def _check_audio(manifests: Manifests, faults: list[Fault]) -> None:
    """Add a fault for each utterance whose audio file does not exist or is not a regular file."""
    problems: dict[Path, str | None] = {}  # many utterances may share one file
    for utterance in manifests.all_utterances():
        path = utterance.audio_path
        if path not in problems:
            problems[path] = _audio_problem(path)
        problem = problems[path]
        if problem is not None:
            faults.append(Fault(utterance.file, utterance.line, "wav_path must be a file", f", {problem}"))


def _audio_problem(path: Path) -> str | None:
    """Return why a path is not a file, for a message; None if it is one."""
    try:
        kind = other_kind(path)
    except FileNotFoundError:
        return f"but {path} does not exist"
    except OSError as error:
        return f"found {error}"
    return f"found {kind}: {path}" if kind else None
