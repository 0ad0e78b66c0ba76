"""Comparison of manifests and folds with what a recipe expects of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

from features.config import SPLITS, SplitName
from features.manifests.folds import find_folds, read_fold
from features.manifests.manifest import Utterance, read_manifests
from mervn.config import TrainHeadOptions
from mervn.data.labels import apply_labels, task_label
from mervn.study.recipes import Expects

NOT_OPENED = "test.jsonl was not opened; --test opens it"
Part = Mapping[str, Sequence[Utterance]]
"""The utterances of one fold, or of the manifests, by split."""


@dataclass(frozen=True)
class Check:
    """One thing that a recipe expects of the data, and what was found."""

    status: Literal["same", "differs", "unknown"]
    text: str


@dataclass(frozen=True)
class DataCheck:
    """Everything that a recipe expects of the data."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    """Utterances with known faults that the data hold."""
    num_test: int | None
    """Number of utterances of test, over all folds of the grid; None if test was not opened."""

    @property
    def same_split(self) -> str:
        """Return `yes` only if all of it was found; else `no` or `cannot be shown`, and why."""
        for status, answer in (("differs", "no"), ("unknown", "cannot be shown")):
            reasons = [check.text for check in self.checks if check.status == status]
            if reasons:
                return f"{answer}: {'; '.join(reasons)}"
        return "yes" if self.checks else "cannot be shown: the recipe expects nothing of the data"


def check_data(
    expects: Expects, options: TrainHeadOptions, data: Path, folds: Sequence[int], *, with_test: bool
) -> DataCheck:
    """Compare the data of a study with what its recipe expects.

    `options` give the labels, the audio root and the fold file; `folds` are the numbers of the folds
    of the grid, none for the splits of the manifests. Without folds, test is read only `with_test`.
    """
    splits: Sequence[SplitName] = SPLITS if with_test or folds else SPLITS[:2]
    parts = [_labelled(part, options) for part in _read(options, data, folds, splits)]
    known = {each.utterance_id: each for part in parts for each in chain.from_iterable(part.values())}
    utterances = list(known.values())
    checks = [
        *_count("utterances", expects.utterances, len(utterances), "test" in splits),
        *_count("labels", expects.labels, len({each.emotion for each in utterances})),
        *_speakers(expects, utterances, "test" in splits),
        *_splits(expects, parts, bool(folds)),
        *_folds(expects, parts, len(folds)),
    ]
    if expects.disjoint_speakers and "test" in splits:
        checks.append(_disjoint(parts))
    if expects.unknown is not None:
        checks.append(Check("unknown", expects.unknown))
    num_test = sum(len(part["test"]) for part in parts) if "test" in splits else None
    return DataCheck(tuple(checks), tuple(_faults(expects, parts)), num_test)


def _read(
    options: TrainHeadOptions, data: Path, numbers: Sequence[int], splits: Sequence[SplitName]
) -> list[Mapping[str, Sequence[Utterance]]]:
    """Return the utterances of each fold, or of the manifests alone."""
    root, label_of = options.audio_root, task_label(options)
    if not numbers:
        return [
            read_manifests(
                data, splits, audio_root=root, check_audio=False, require_emotion="in any split", task_label=label_of
            )
        ]
    folds = find_folds(data, options.fold_file)
    return [read_fold(data, folds, number, splits, root, label_of)[0] for number in numbers]


def _labelled(part: Part, options: TrainHeadOptions) -> Part:
    return apply_labels(part, options, require_all=False).utterances


def _count(what: str, expected: int | None, found: int, complete: bool = True) -> Iterable[Check]:
    """Yield the check of a number; without test it cannot be shown."""
    if expected is None:
        return
    if not complete:
        yield Check("unknown", f"{expected} {what} expected, but {NOT_OPENED}")
    elif found == expected:
        yield Check("same", f"{expected} {what}")
    else:
        yield Check("differs", f"{expected} {what} expected, {found} found")


def _speakers(expects: Expects, utterances: Sequence[Utterance], complete: bool) -> Iterable[Check]:
    unknown = sum(each.speaker_id is None for each in utterances)
    if expects.speakers is not None and unknown:
        yield Check("unknown", f"{expects.speakers} speakers expected, but {unknown} utterances have no speaker_id")
    else:
        yield from _count("speakers", expects.speakers, len({each.speaker_id for each in utterances}), complete)


def _splits(expects: Expects, parts: Sequence[Part], has_folds: bool) -> Iterable[Check]:
    for split, expected in expects.splits.items():
        if has_folds:
            yield Check("differs", f"{expected} {split} utterances expected, but the grid has folds")
        elif split not in parts[0]:
            yield Check("unknown", f"{expected} {split} utterances expected, but {NOT_OPENED}")
        else:
            yield from _count(f"{split} utterances", expected, len(parts[0][split]))


def _folds(expects: Expects, parts: Sequence[Part], num_folds: int) -> Iterable[Check]:
    yield from _count("folds", expects.folds, num_folds)
    if not num_folds and (expects.fold_speakers, expects.fold_key) != (None, None):
        yield Check("differs", "folds expected, but the grid has none")
    elif expects.fold_speakers is not None:
        yield _fold_speakers(expects.fold_speakers, parts)
    if num_folds and expects.fold_key is not None:
        yield _fold_key(expects.fold_key, parts)


def _fold_speakers(expected: int, parts: Sequence[Part]) -> Check:
    """Check the number of speakers in the test split of each fold."""
    for number, part in enumerate(parts, 1):
        speakers = {each.speaker_id for each in part["test"]}
        if None in speakers:
            return Check("unknown", f"{expected} speakers per fold expected, but some speaker_id are missing")
        if len(speakers) != expected:
            return Check("differs", f"{expected} speakers in test of each fold expected, {len(speakers)} in {number}")
    return Check("same", f"{expected} speakers in test of each fold")


def _fold_key(key: str, parts: Sequence[Part]) -> Check:
    """Check that the test split of each fold is all utterances with one value of a manifest key."""
    rule = f"one {key} in test of each fold expected"
    value_of = _value_of(key)
    if any(value_of(each) is None for part in parts for each in chain.from_iterable(part.values())):
        return Check("unknown", f"{rule}, but some lines of the manifests have no key {key!r}")
    tested: set[str] = set()
    for number, part in enumerate(parts, 1):
        found = {value_of(each) for each in part["test"]}
        if len(found) != 1:
            return Check("differs", f"{rule}, {len(found)} in {number}")
        if found & {value_of(each) for split in ("train", "valid") for each in part[split]}:
            return Check("differs", f"{rule}, but that of {number} is also in train or valid")
        tested.update(each.utterance_id for each in part["test"])
    everything = {each.utterance_id for part in parts for each in chain.from_iterable(part.values())}
    times = sum(len(part["test"]) for part in parts)
    if not len(everything) == len(tested) == times:
        found_text = f"{len(tested)} of {len(everything)} utterances {times} times"
        return Check("differs", f"each utterance in test of one fold expected, {found_text}")
    return Check("same", f"one {key} in test of each fold")


def _value_of(key: str) -> Callable[[Utterance], str | None]:
    """Return a function from an utterance to its value of a manifest key, None if it has none."""

    def value(utterance: Utterance) -> str | None:
        found = utterance.speaker_id if key == "speaker_id" else utterance.extra.get(key)
        return None if found in (None, "") else str(found)

    return value


def _disjoint(parts: Sequence[Part]) -> Check:
    """Check that no speaker of test is in train or valid."""
    for part in parts:
        tested = {each.speaker_id for each in part["test"]}
        others = {each.speaker_id for split in ("train", "valid") for each in part[split]}
        if None in tested | others:
            return Check("unknown", "no speaker of test in train or valid expected, but some speaker_id are missing")
        common = sorted(str(each) for each in tested & others)
        if common:
            return Check("differs", f"no speaker of test in train or valid expected, found {len(common)}: {common[0]}")
    return Check("same", "no speaker of test in train or valid")


def _faults(expects: Expects, parts: Sequence[Part]) -> Iterator[str]:
    """Yield a note for each utterance with a known fault that a split of the data holds."""
    for fault in expects.faults:
        for each in parts[0].get(fault.split, ()):
            if fault.name in (each.utterance_id, PurePosixPath(each.wav_path).stem):
                yield f"{each.file}:{each.line}: {fault.name} is known to be {fault.fault}"
