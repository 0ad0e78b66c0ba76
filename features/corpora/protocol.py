"""Protocol of a corpus: its official splits or folds, or folds without a common group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from features.config import SPLITS, SplitName
from features.corpora.items import Corpus, Finding, Fold, Item
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError, name_some
from features.splitting.balanced_parts import assign_most, count_values
from features.splitting.groups import connected_components

NUM_FOLDS = 5
HELD_OUT = 0.2
"""Fraction of train that becomes valid, if a corpus has no valid split."""
UNKNOWN = "unknown"
HOW_TO_GROUP = "give --speaker-column, --group-column or --speaker-pattern, if the format has them"


@dataclass
class Protocol:
    """Splits and folds of a corpus."""

    text: str
    """Description."""
    splits: dict[SplitName, list[Item]]
    folds: list[Fold] = field(default_factory=list)
    """If there are any, `splits` are those of the first."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def parts(self) -> list[Fold]:
        """Return the ids of the splits of each fold, or of the only splits."""
        if self.folds:
            return self.folds
        return [{split: _ids(items) for split, items in self.splits.items()}]


def choose_protocol(corpus: Corpus, options: ImportOptions) -> Protocol:
    """Return the official splits or folds of a corpus, or folds by group.

    Raises UsageError if the corpus has no official ones and they are asked for, or if they exist
    and --folds is given. Raises InputError if no group is known, or there are fewer groups than
    folds.
    """
    protocol = options.protocol or ("official" if corpus.official else "groups")
    if protocol == "groups":
        return _by_group(corpus, options.folds or NUM_FOLDS)
    if not corpus.official:
        raise UsageError("--protocol official needs official splits, but this corpus has none")
    if "folds" in options.given:  # not if mervn.toml sets it for other corpora
        raise UsageError("--folds needs --protocol groups, because this corpus has official splits")
    if corpus.folds:
        return _official_folds(corpus)
    return _official_splits(corpus)


def _official_folds(corpus: Corpus) -> Protocol:
    """Return the official folds without the utterances that are left out."""
    present = {item.utterance_id for item in corpus.items}
    folds = []
    for number, fold in enumerate(corpus.folds, 1):
        kept = {split: list(filter(present.__contains__, names)) for split, names in fold.items()}
        empty = [split for split, names in kept.items() if not names]
        if empty:
            raise InputError(
                f"each split must have utterances with label and audio, found none in {empty[0]} of fold {number}"
            )
        counts = Counter(name for names in kept.values() for name in names)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise InputError(f"an utterance must be in one split of a fold, found in two in fold {number}: "
                             f"{name_some(twice)}")  # fmt: skip
        folds.append(kept)
    return _from_folds(corpus.items, folds, corpus.official)


def _from_folds(items: Sequence[Item], folds: list[Fold], text: str) -> Protocol:
    """Return a protocol whose splits are those of the first fold."""
    of_id = {item.utterance_id: item for item in items}
    splits: dict[SplitName, list[Item]] = {}
    for split in SPLITS:
        splits[split] = [of_id[name] for name in folds[0][split]]
    return Protocol(f"{text}; train.jsonl, valid.jsonl and test.jsonl are those of fold 1", splits, folds)


def _official_splits(corpus: Corpus) -> Protocol:
    """Return the official splits; without a valid split, groups of train become it."""
    splits: dict[SplitName, list[Item]] = {split: [] for split in SPLITS}
    for item in corpus.items:
        if item.split is None:
            raise InputError(f"each utterance must have an official split, found none for {item.utterance_id!r}")
        splits[item.split].append(item)
    for split in ("train", "test"):
        if not splits[split]:
            raise InputError(f"official splits must have {split}, found no utterance of it; give --protocol groups")
    protocol = Protocol(corpus.official, splits)
    if not splits["valid"]:
        splits["valid"], splits["train"] = hold_out(splits["train"], corpus.unit)
        protocol.findings.append(valid_made(len(splits["valid"]), corpus.unit))
    return protocol


def valid_made(count: int, unit: str) -> Finding:
    """Return the finding that a corpus has no valid split, so that one was made."""
    message = f"there is no official valid split: {count} utterances of train, with all of their {unit}s, became it"
    return Finding("valid_made", "warning", message)


def hold_out(items: Sequence[Item], unit: str) -> tuple[list[Item], list[Item]]:
    """Divide items into `HELD_OUT` of them, and the rest without a common group."""
    held_out, rest = group_parts(items, [HELD_OUT, 1 - HELD_OUT], unit)
    return held_out, rest


def _by_group(corpus: Corpus, count: int) -> Protocol:
    """Return folds by group: one part is test, the next part is valid."""
    parts = [_ids(part) for part in group_parts(corpus.items, [1 / count] * count, corpus.unit)]
    folds = []
    for number in range(count):
        test, valid = parts[number], parts[(number + 1) % count]
        taken = {*test, *valid}
        train = [item.utterance_id for item in corpus.items if item.utterance_id not in taken]
        folds.append({"train": train, "valid": valid, "test": test})
    return _from_folds(corpus.items, folds, f"{count} folds without a common {corpus.unit}, not official")


def group_parts(items: Sequence[Item], fractions: Sequence[float], unit: str) -> list[list[Item]]:
    """Divide items into parts without a common group, each label in its proportion in each.

    Items of an unknown group stay together, and so do items with the same audio or of one recording.
    A label that cannot be in every part is in as many as were found possible.
    """
    if all(item.unit is None for item in items):
        raise InputError(f"utterances must have a known {unit} to be divided, found none; {HOW_TO_GROUP}")
    names = connected_groups(items)
    known = sorted(set(names))
    if len(known) < len(fractions):
        apart = len({item.unit for item in items})
        joined = (
            f"; {unit}s with a common recording or equal audio count as one; --group-column (csv, hf) can name others"
            if apart > len(known)
            else ""
        )
        raise InputError(f"there must be at least {len(fractions)} {unit}s, one per part, found {len(known)}{joined}")
    numbers = {name: number for number, name in enumerate(known)}
    groups = np.array([numbers[name] for name in names], np.int64)
    labels = count_values(groups, [str(item.label) for item in items])
    # the number of utterances counts as a label, so that no part is empty
    counts = np.concatenate([labels, np.bincount(groups)[:, None]], axis=1)
    chosen = assign_most(counts, counts.shape[1], fractions)
    parts: list[list[Item]] = [[] for _ in fractions]
    for item, group in zip(items, groups, strict=True):
        parts[chosen[group]].append(item)
    return parts


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.utterance_id for item in items]


def connected_groups(items: Sequence[Item]) -> list[str]:
    """Return the group of each item, named by its first unit.

    Items with the same audio are in one, and those of one recording, unless the corpus gives groups.
    """
    units = [UNKNOWN if item.unit is None else f"={item.unit}" for item in items]
    recordings = [item.recording if item.group is None else None for item in items]
    component = connected_components([units, [item.sha256 for item in items], recordings])
    names: dict[int, str] = {}
    for unit, number in zip(units, component, strict=True):
        names[number] = min(unit, names.get(number, unit))
    return [names[number] for number in component]
