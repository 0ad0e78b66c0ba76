"""Folds of a corpus: `folds-5.json` beside the manifests says what each fold trains on, selects on and tests on.

{"schema": 1, "folds": [{"train": [ids], "valid": [ids], "test": [ids]}, ...]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from features.config import SPLITS
from features.errors import InputError, UsageError
from features.manifests.manifest import Utterance, read_manifests
from features.regular_files import read_regular

Split = Literal["train", "valid", "test"]
SCHEMA = 1
PATTERN = "folds-*.json"
SHOWN = 5


@dataclass(frozen=True)
class Folds:
    """The folds of one file."""

    path: Path
    folds: list[dict[str, list[str]]]
    """For each fold the utterance ids of each split."""
    sha256: str

    def as_json(self) -> dict[str, str]:
        """Return what a configuration says of the file."""
        return {"file": self.path.name, "sha256": self.sha256}

    def __len__(self) -> int:
        return len(self.folds)

    def fold(self, number: int) -> dict[str, list[str]]:
        """Return the ids of the K-th fold by split, counted from 1; UsageError where there is none."""
        if not 1 <= number <= len(self.folds):
            raise UsageError(f"--fold must be 1 to {len(self.folds)} or all, for {self.path}, found {number}")
        return self.folds[number - 1]


def read_folds(path: Path) -> Folds:
    """Read a fold file; InputError lists every fault: wrong form, an id twice in a fold, a fold without a split."""
    try:
        content = read_regular(path)
        document = json.loads(content)
    except FileNotFoundError as error:
        raise UsageError(f"{path} must be a JSON file of folds; there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a JSON file of folds, but cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not _is_folds(document.get("folds")):
        form = '{"schema": 1, "folds": [{"train": [ids], "valid": [ids], "test": [ids]}, ...]}'
        raise InputError(f"{path} must be of the form {form}")
    faults = [
        f"{path}: fold {number}: {fault}"
        for number, fold in enumerate(document["folds"], start=1)
        for fault in _faults(fold)
    ]
    if faults:
        raise InputError("\n".join(faults))
    return Folds(path, document["folds"], hashlib.sha256(content).hexdigest())


def find_folds(data: Path, explicit: Path | None) -> Folds:
    """Read the fold file that is given, else the only one beside the manifests; UsageError where there is not one."""
    if explicit is not None:
        return read_folds(explicit)
    found = sorted(data.glob(PATTERN))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"--fold needs one {PATTERN} in {data}, found {there}; give it with --fold-file")
    return read_folds(found[0])


def _is_folds(folds: Any) -> bool:
    return (
        isinstance(folds, list)
        and bool(folds)
        and all(
            isinstance(fold, dict)
            and not fold.keys() - set(SPLITS)
            and all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in fold.values())
            for fold in folds
        )
    )


def _faults(fold: Mapping[str, list[str]]) -> list[str]:
    faults = [f"{split} must hold utterances, found none" for split in ("train", "valid") if not fold.get(split)]
    seen: dict[str, str] = {}
    twice = []
    for split in SPLITS:
        for utterance_id in fold.get(split, []):
            if utterance_id in seen:
                twice.append(f"{utterance_id!r} in {seen[utterance_id]} and {split}")
            seen[utterance_id] = split
    if twice:
        more = f" and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        faults.append(f"an utterance must be in one split, found {', '.join(twice[:SHOWN])}{more}")
    return faults


def read_fold(
    data: Path,
    folds: Folds,
    number: int,
    splits: Sequence[Split],
    audio_root: Path | None,
    task_label: Callable[[str], str | None] = str,
) -> tuple[dict[str, list[Utterance]], dict[str, str]]:
    """Return the utterances of some splits of a fold, in the order of the manifests, and the hashes of those read.

    test.jsonl is read only where the fold asks for ids that are not in train.jsonl and valid.jsonl. InputError names
    ids that are in none.
    """
    fold = folds.fold(number)
    place = {utterance_id: split for split in splits for utterance_id in fold.get(split, [])}
    for manifests in (SPLITS[:2], SPLITS):
        read = read_manifests(
            data, manifests, audio_root=audio_root, check_audio=False, labels_of_train=False, task_label=task_label
        )
        known = {utterance.utterance_id: utterance for rows in read.values() for utterance in rows}
        absent = [utterance_id for utterance_id in place if utterance_id not in known]
        if not absent:
            break
    if absent:
        shown = ", ".join(map(repr, absent[:SHOWN]))
        raise InputError(
            f"{folds.path}: fold {number}: {len(absent)} ids are in no manifest of {data}, such as {shown}"
        )
    rows: dict[str, list[Utterance]] = {split: [] for split in splits}
    for utterance_id, utterance in known.items():
        if utterance_id in place:
            rows[place[utterance_id]].append(replace(utterance, split=place[utterance_id]))
    return rows, read.sha256
