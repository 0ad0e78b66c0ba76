"""Cross-validation folds: the utterance ids of train, valid and test in each fold.

A file such as `folds-5.json` beside the manifests holds them:
{"schema": 1, "folds": [{"train": [ids], "valid": [ids], "test": [ids]}, ...]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.config import SPLITS, SplitName
from features.errors import MAX_NAMED, InputError, UsageError, name_some
from features.manifests.manifest import Utterance, read_manifests
from features.progress import SILENT, Reporter
from features.regular_files import read_regular

SCHEMA = 1
PATTERN = "folds-*.json"


@dataclass(frozen=True)
class Folds:
    """The folds of one file."""

    path: Path
    folds: list[dict[str, list[str]]]
    """For each fold the utterance ids of each split."""
    sha256: str

    def as_json(self) -> dict[str, str]:
        """Return the file name and hash, which a run's config.json records."""
        return {"file": self.path.name, "sha256": self.sha256}

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> dict[str, list[str]]:
        """Return the utterance ids of fold `number` (1 to K) by split.

        Raises UsageError for another number.
        """
        if not 1 <= number <= len(self.folds):
            raise UsageError(f"--fold must be 1 to {len(self.folds)} or all, for {self.path}, found {number}")
        return self.folds[number - 1]


def read_folds(path: Path) -> Folds:
    """Read a fold file.

    Raises UsageError if it does not exist. Raises InputError, which lists every fault: invalid
    form, an id twice in a fold, an empty train or valid.
    """
    try:
        content = read_regular(path)
        document = json.loads(content)
    except FileNotFoundError as error:
        raise UsageError(f"{path} must be a JSON file of folds, but it does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a JSON file of folds, but cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not _are_folds(document.get("folds")):
        form = '{"schema": 1, "folds": [{"train": [ids], "valid": [ids], "test": [ids]}, ...]}'
        raise InputError(f"{path} must be of the form {form}")
    faults = []
    for number, fold in enumerate(document["folds"], start=1):
        for fault in _faults(fold):
            faults.append(f"{path}: fold {number}: {fault}")
    if faults:
        raise InputError("\n".join(faults))
    return Folds(path, document["folds"], hashlib.sha256(content).hexdigest())


def find_folds(data: Path, explicit: Path | None) -> Folds:
    """Read the given fold file, else the one beside the manifests.

    Raises UsageError unless there is exactly one.
    """
    if explicit is not None:
        return read_folds(explicit)
    found = sorted(data.glob(PATTERN))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"--fold needs one {PATTERN} in {data}, found {names}; give it with --fold-file")
    return read_folds(found[0])


def _are_folds(folds: Any) -> bool:
    return isinstance(folds, list) and bool(folds) and all(map(_is_fold, folds))


def _is_fold(fold: Any) -> bool:
    return isinstance(fold, dict) and not fold.keys() - set(SPLITS) and all(map(_are_ids, fold.values()))


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(each, str) for each in ids)


def _faults(fold: Mapping[str, list[str]]) -> list[str]:
    """Return the faults of one fold: an empty train or valid, and ids that occur twice."""
    faults = []
    for split in ("train", "valid"):
        if not fold.get(split):
            faults.append(f"{split} must hold utterances, found none")
    split_of: dict[str, str] = {}
    duplicates = []
    for split in SPLITS:
        for utterance_id in fold.get(split, []):
            if utterance_id in split_of:
                duplicates.append(f"{utterance_id!r} in {split_of[utterance_id]} and {split}")
            split_of[utterance_id] = split
    if duplicates:
        faults.append(f"an utterance must be in one split, found {name_some(duplicates)}")
    return faults


def read_fold(
    data: Path,
    folds: Folds,
    number: int,
    splits: Sequence[SplitName],
    audio_root: Path | None,
    task_label: Callable[[str], str | None] = str,
    reporter: Reporter = SILENT,
) -> tuple[dict[str, list[Utterance]], dict[str, str]]:
    """Return the utterances of some splits of a fold, and the hashes of the manifests read.

    The utterances are in manifest order. test.jsonl is read only if the fold has ids that are not
    in train.jsonl and valid.jsonl. Raises InputError, which names ids that are in no manifest.
    """
    fold = folds.fold(number)
    split_of: dict[str, SplitName] = {}
    for split in splits:
        split_of |= dict.fromkeys(fold.get(split, []), split)
    # first without test.jsonl
    for manifests in (SPLITS[:2], SPLITS):
        read = read_manifests(
            data, manifests, audio_root=audio_root, check_audio=False, task_label=task_label,
            require_emotion="in any split", reporter=reporter,
        )  # fmt: skip
        known = read.by_id()
        missing = [utterance_id for utterance_id in split_of if utterance_id not in known]
        if not missing:
            break
    if missing:
        examples = ", ".join(map(repr, missing[:MAX_NAMED]))
        raise InputError(
            f"{folds.path}: fold {number}: {len(missing)} ids are in no manifest of {data}, such as {examples}"
        )
    utterances: dict[str, list[Utterance]] = {split: [] for split in splits}
    for utterance_id, utterance in known.items():
        if utterance_id in split_of:
            split = split_of[utterance_id]
            utterances[split].append(replace(utterance, split=split))
    return utterances, read.sha256
