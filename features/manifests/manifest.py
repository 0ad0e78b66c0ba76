"""Manifests: train.jsonl, valid.jsonl and test.jsonl; all faults are reported at once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from features.errors import InputError, UsageError
from features.hash_index import HashIndex
from features.manifests.faults import Fault, describe_faults
from features.manifests.json_lines import BYTE_ORDER_MARK as BYTE_ORDER_MARK
from features.manifests.label_names import lookalikes
from features.manifests.manifest_file import ManifestFile
from features.manifests.utterance import Utterance as Utterance
from features.manifests.utterances import Utterances, id_reader, iterate_ids
from features.progress import SILENT, Reporter
from features.regular_files import other_form, other_kind


class Manifests(dict[str, Utterances]):
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
    require_emotion: bool | Literal["in any split"] = True,
    check_audio: bool = True,
    task_label: Callable[[str], str | None] = str,
    reporter: Reporter = SILENT,
) -> Manifests:
    """Read the manifests of these splits, and no others; return their utterances and hashes.

    `task_label` maps an emotion to the label of the task, or to None to leave it out. `reporter`
    shows the progress of large manifests.

    Raises UsageError if a folder does not exist. Raises one InputError, which lists every fault of
    every file with its line: an empty or missing manifest, invalid JSON, missing, misspelt or
    ill-typed fields, times that are not finite, negative or out of order, duplicate ids, extra keys
    that cannot be written into predictions, missing audio files (if `check_audio`). If
    `require_emotion`, also lines without emotion, different labels that look the same and, unless it is
    "in any split" and if train is read, labels that train does not have.
    """
    _check_folders(data, audio_root)
    faults: list[Fault] = []
    manifests = Manifests()
    for split in splits:
        file = ManifestFile(data / f"{split}.jsonl", split, audio_root or data, bool(require_emotion), faults)
        manifests[split], manifests.sha256[split] = file.read(reporter), file.sha256
    _check_ids(manifests, faults)
    if require_emotion:
        labelled = {split: _Labelled(utterances, task_label) for split, utterances in manifests.items()}
        same = _check_lookalikes(labelled, faults)
        if require_emotion is True:
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


def _check_ids(manifests: Manifests, faults: list[Fault]) -> None:
    """Add a fault for each utterance whose id another utterance has, in any split."""
    utterances = Utterances.join(manifests.values())
    first_with: dict[str, Utterance] = {}
    by_hash = HashIndex.of(iterate_ids(utterances), id_reader(utterances))
    for index in sorted(by_hash.numbers[by_hash.repeated()].tolist()):
        utterance = utterances[index]
        first = first_with.setdefault(utterance.utterance_id, utterance)
        if first is not utterance:
            found = f", found {utterance.utterance_id!r} in {first.file}:{first.line} too"
            faults.append(Fault(utterance.file, utterance.line, "utterance_id must be unique", found))


class _Labelled:
    """The labels of the task that the utterances of one split have."""

    def __init__(self, utterances: Utterances, task_label: Callable[[str], str | None]) -> None:
        self.utterances = utterances
        self._codes, columns = utterances.codes("emotions")
        self._labels = list(map(task_label, chain.from_iterable(column.values for column in columns)))
        """By code of the emotion; None: no label of the task."""

    def first_of_each(self) -> Iterator[tuple[str, Utterance]]:
        """Yield each label with its first utterance, in the order of the manifest."""
        codes, firsts = np.unique(self._codes, return_index=True)
        for first, code in sorted(zip(firsts.tolist(), codes.tolist(), strict=True)):
            label = self._labels[code] if code >= 0 else None
            if label is not None:
                yield label, self.utterances[first]

    def with_labels(self, labels: Container[str]) -> Iterator[tuple[str, Utterance]]:
        """Yield the utterances that have one of these labels, with it, in the order of the manifest."""
        codes = [code for code, label in enumerate(self._labels) if label is not None and label in labels]
        for index in np.flatnonzero(np.isin(self._codes, codes)).tolist():
            yield str(self._labels[self._codes[index]]), self.utterances[index]


def _check_lookalikes(manifests: Mapping[str, _Labelled], faults: list[Fault]) -> dict[str, str]:
    """Add a fault for each label that looks the same as an earlier one; return {later: earlier}."""
    first: dict[str, Utterance] = {}
    for labelled in manifests.values():
        for label, utterance in labelled.first_of_each():
            first.setdefault(label, utterance)
    same = {later: earlier for earlier, later in lookalikes(first)}
    for labelled in manifests.values():
        for label, utterance in labelled.with_labels(same):
            before = same[label]
            place = f"{first[before].file}:{first[before].line}"
            rule = f"emotion {label!r} looks the same as {before!r} in {place}"
            hint = f"; use one spelling, or train with --label-map {shlex.quote(f'{label}={before}')}"
            faults.append(Fault(utterance.file, utterance.line, rule, hint))
    return same


def _check_labels(manifests: Mapping[str, _Labelled], same: Mapping[str, str], faults: list[Fault]) -> None:
    """Add a fault for each label that train does not have; those in `same` have one already."""
    if "train" not in manifests:
        return
    known = {label for label, _ in manifests["train"].first_of_each()}
    if not known:
        return
    names = ", ".join(sorted(known))
    for split, labelled in manifests.items():
        unknown = {label for label, _ in labelled.first_of_each()} - known - same.keys()
        if split == "train":
            continue
        for label, utterance in labelled.with_labels(unknown):
            rule = f"emotion must be a label of train ({names})"
            faults.append(Fault(utterance.file, utterance.line, rule, f", found {label!r}"))


def _check_audio(manifests: Manifests, faults: list[Fault]) -> None:
    """Add a fault for each utterance whose audio file does not exist or is not a regular file."""
    for utterances in manifests.values():
        codes, _ = utterances.codes("wav_paths")
        problems: dict[int, str] = {}
        for code in range(utterances.num_files):
            problem = _audio_problem(utterances.audio_path(code))
            if problem is not None:
                problems[code] = problem
        for index in np.flatnonzero(np.isin(codes, list(problems))).tolist():
            utterance, problem = utterances[index], problems[int(codes[index])]
            faults.append(Fault(utterance.file, utterance.line, "wav_path must be a file", f", {problem}"))


def _audio_problem(path: Path) -> str | None:
    """Return why a path is not a file, for a message; None if it is one."""
    try:
        kind = other_kind(path)
    except FileNotFoundError:
        return f"but {path} does not exist{other_form(path)}"
    except OSError as error:
        return f"found {error}"
    return f"found {kind}: {path}" if kind else None
