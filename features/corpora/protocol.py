"""Protocol of a corpus: its official splits or folds, or folds without a common group."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from features.config import SPLITS, SplitName
from features.corpora.items import Corpus, Finding, Fold, Item
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError
from features.splitting.groups import connected_components

NUM_FOLDS = 5
TRIES = 50
"""Number of seeds that are tried for folds in which each part has each label."""
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
        valid, protocol.splits["train"] = hold_out(splits["train"], corpus.unit)
        protocol.splits["valid"] = valid
        protocol.findings.append(valid_made(len(valid), corpus.unit))
    return protocol


def valid_made(count: int, unit: str) -> Finding:
    """Return the finding that a corpus has no valid split, so that one was made."""
    message = f"there is no official valid split: {count} utterances of train, with all of their {unit}s, became it"
    return Finding("valid_made", "warning", message)


def hold_out(items: Sequence[Item], unit: str) -> tuple[list[Item], list[Item]]:
    """Divide items into a fifth, and the rest without a common group."""
    part = set(group_parts(items, NUM_FOLDS, unit)[0])
    held_out = [item for item in items if item.utterance_id in part]
    return held_out, [item for item in items if item.utterance_id not in part]


def _by_group(corpus: Corpus, count: int) -> Protocol:
    """Return folds by group: one part is test, the next part is valid."""
    parts = group_parts(corpus.items, count, corpus.unit)
    folds = []
    for number in range(count):
        test, valid = parts[number], parts[(number + 1) % count]
        taken = {*test, *valid}
        train = [item.utterance_id for item in corpus.items if item.utterance_id not in taken]
        folds.append({"train": train, "valid": valid, "test": test})
    return _from_folds(corpus.items, folds, f"{count} folds without a common {corpus.unit}, not official")


def group_parts(items: Sequence[Item], count: int, unit: str) -> list[list[str]]:
    """Divide the ids of items into parts without a common group, with similar numbers of each label.

    Items of an unknown group stay together. Of `TRIES` seeds, the first is taken whose parts have
    all labels, else the one that lacks the fewest. Items with the same audio are in one part.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = connected_groups(items)
    if all(item.unit is None for item in items):
        raise InputError(f"utterances must have a known {unit} to be divided, found none; {HOW_TO_GROUP}")
    if len(set(groups)) < count:
        joined = f"; {unit}s with equal audio count as one" if any(item.sha256 for item in items) else ""
        raise InputError(f"there must be at least {count} {unit}s, one per part, found {len(set(groups))}{joined}")
    labels = [str(item.label) for item in items]
    best: list[list[str]] = []
    fewest = len(items) + 1
    for seed in (None, *range(TRIES)):
        splitter = StratifiedGroupKFold(count, shuffle=seed is not None, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels with fewer utterances than parts, reported later
            indices = [held_out for _, held_out in splitter.split(items, labels, groups)]
        parts = [_select(items, part) for part in indices]
        lacking = sum(len(set(labels)) - _num_labels(part) for part in parts)
        if lacking < fewest and all(parts):
            fewest, best = lacking, list(map(_ids, parts))
        if lacking == 0:
            break
    if not best:
        raise InputError(f"no division into {count} parts without a common {unit} was found; give fewer --folds")
    return best


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.utterance_id for item in items]


def _select(items: Sequence[Item], indices: Iterable[int]) -> list[Item]:
    return [items[index] for index in indices]


def _num_labels(items: Sequence[Item]) -> int:
    return len({str(item.label) for item in items})


def connected_groups(items: Sequence[Item]) -> list[str]:
    """Return the group of each item, named by its first unit; items with the same audio are in one."""
    units = [UNKNOWN if item.unit is None else f"={item.unit}" for item in items]
    component = connected_components([units, [item.sha256 for item in items]])
    names: dict[int, str] = {}
    for unit, number in zip(units, component, strict=True):
        names[number] = min(unit, names.get(number, unit))
    return [names[number] for number in component]
