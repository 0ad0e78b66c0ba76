"""Splits one manifest into train, valid and test, or into folds, without a group in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.config import SPLITS
from features.errors import UsageError
from features.manifests.manifest import BYTE_ORDER_MARK, Utterance, read_manifests
from features.progress import SILENT, Reporter
from features.regular_files import read_regular
from features.splitting.balanced_parts import Array, assign, count_values
from features.splitting.groups import AUDIO, TRANSCRIPT, Groups, find_groups, require_values, shared_value
from features.splitting.options import SplitOptions
from features.splitting.refusals import refuse


@dataclass(frozen=True)
class Part:
    """Utterances of one part: a split, or the test utterances of one fold."""

    name: str
    utterances: list[Utterance]
    groups: int
    """Number of groups."""

    @property
    def ids(self) -> list[str]:
        """The utterance ids, sorted by code point."""
        return [utterance.utterance_id for utterance in self.utterances]

    def count(self, key: str) -> dict[str, int]:
        """Return the number of utterances by value of a key; missing values are not counted."""
        values = [shared_value(utterance, key) for utterance in self.utterances]
        counts = Counter(value for value in values if value is not None)
        return dict(sorted(counts.items()))

    def as_json(self, balance: str | None) -> dict[str, Any]:
        """Return counts: utterances, groups, speakers and G*, classes, values of `balance`."""
        speakers = np.array(list(self.count("speaker_id").values()), float)
        unknown = len(self.utterances) - int(speakers.sum())  # each may be a speaker of its own
        squares = float((speakers**2).sum()) + unknown
        document: dict[str, Any] = {
            "utterances": len(self.utterances),
            "groups": self.groups,
            "speakers": len(speakers),
            "unknown_speaker": unknown,
            "effective_speakers": round(len(self.utterances) ** 2 / squares, 2),
            "classes": self.count("emotion"),
        }
        return document if balance is None else {**document, "balance": self.count(balance)}


@dataclass(frozen=True)
class SplitPlan:
    """The parts of a split, before they are written."""

    file: Path
    options: SplitOptions
    documents: Mapping[str, dict[str, Any]]
    """The JSON object of each utterance, by its id."""
    parts: list[Part]
    groups: Groups

    @property
    def folds(self) -> list[dict[str, list[str]]]:
        """Utterance ids of each split by fold: part k is the test of fold k and valid of the one before."""
        folds = []
        for number, test in enumerate(self.parts):
            valid = self.parts[(number + 1) % len(self.parts)]
            train: list[str] = []
            for part in self.parts:
                train += part.ids if part is not test and part is not valid else []
            folds.append({"train": sorted(train), "valid": valid.ids, "test": test.ids})
        return folds

    @property
    def splits(self) -> dict[str, list[str]]:
        """The utterance ids of train, valid and test; with folds, those of the first fold."""
        if self.options.folds is not None:
            return self.folds[0]
        return {part.name: part.ids for part in self.parts}

    def as_json(self) -> dict[str, Any]:
        """Return the content of split.json, which has no path and no time."""
        options = self.options.model_dump(include={"folds", "group", "balance"})
        if self.options.folds is None:
            options["valid"], options["test"] = self.options.fractions
        lines = sorted(json.dumps(document, sort_keys=True) for document in self.documents.values())
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        parts = {part.name: part.as_json(self.options.balance) for part in self.parts}
        return {"schema": 1, "options": options, "utterances_sha256": digest, "parts": parts}


def plan_split(file: Path, options: SplitOptions, reporter: Reporter = SILENT) -> SplitPlan:
    """Assign the utterances of a manifest to splits or folds; the order of its lines has no effect.

    Raises InputError for faults of the manifest, and if the groups allow no split with every class
    in every part; the message says why, and what is possible.
    """
    if file.suffix != ".jsonl":
        raise UsageError(f"the manifest must be a file .jsonl, found {file}")
    if not file.exists():
        raise UsageError(f"the manifest must be a file .jsonl, but {file} does not exist")
    manifests = read_manifests(
        file.parent, [file.stem], audio_root=options.audio_root, check_audio=AUDIO in options.group, reporter=reporter
    )
    utterances = sorted(manifests.all_utterances(), key=lambda utterance: utterance.utterance_id)
    if options.balance is not None:
        require_values(utterances, options.balance, "--balance")
    groups = find_groups(utterances, options.group, reporter)
    for warning in _warnings(utterances, groups, options):
        reporter.say(f"warning: {warning}")
    labels = sorted({str(utterance.emotion) for utterance in utterances})
    counts = _counts(utterances, groups, options.balance)
    chosen = assign(counts, len(labels), options.part_fractions)
    if chosen is None:
        raise refuse(file, options, groups, labels, counts[:, : len(labels)])
    names = [f"fold {number + 1}" for number in range(options.folds)] if options.folds else list(SPLITS)
    parts = []
    for number, name in enumerate(names):
        inside = [one for one, group in zip(utterances, groups.index, strict=True) if chosen[group] == number]
        parts.append(Part(name, inside, int((chosen == number).sum())))
    return SplitPlan(file, options, _documents(file, utterances), parts, groups)


def _counts(utterances: Sequence[Utterance], groups: Groups, balance: str | None) -> Array:
    """Return the utterances (G, F) int64 of each group by class, by value of `balance`, and in all."""
    columns = [count_values(groups.index, [str(utterance.emotion) for utterance in utterances])]
    if balance is not None:
        columns.append(count_values(groups.index, [shared_value(utterance, balance) for utterance in utterances]))
    columns.append(np.bincount(groups.index)[:, None])
    return np.concatenate(columns, axis=1)


def _warnings(utterances: Sequence[Utterance], groups: Groups, options: SplitOptions) -> Iterator[str]:
    """Yield what may keep utterances apart that belong together."""
    if groups.unreadable:
        yield (
            f"{len(groups.unreadable)} audio files cannot be decoded, so equal samples in them are not "
            f"found, such as: {groups.unreadable[0]}"
        )
    for key in options.group:
        values = [shared_value(utterance, key) for utterance in utterances] if key != AUDIO else []
        lacking = sum(value is None for value in values)
        if lacking and key != TRANSCRIPT:
            yield (f"{lacking} of {len(values)} utterances have no {key}; those of one {key} may be in several splits")
        if key == "speaker_id" and 1 < len(values) == len(set(values)):
            yield "there are as many speakers as utterances: are these speakers, or names of files?"


def _documents(file: Path, utterances: Sequence[Utterance]) -> dict[str, dict[str, Any]]:
    """Return the JSON object of each utterance's line, with all of its keys."""
    lines = read_regular(file).removeprefix(BYTE_ORDER_MARK).splitlines()
    return {utterance.utterance_id: json.loads(lines[utterance.line - 1]) for utterance in utterances}
