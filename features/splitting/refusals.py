"""Refusals of `mervn split`: why no split is possible, and what is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from features.errors import InputError, name_some
from features.splitting.balanced_parts import Array, find_cover
from features.splitting.groups import Groups
from features.splitting.options import MIN_FOLDS, SplitOptions


def refuse(file: Path, options: SplitOptions, groups: Groups, labels: Sequence[str], counts: Array) -> InputError:
    """Return the error if no split has every class in every part.

    `counts` (G, C) holds the utterances of each group by class.
    """
    num_parts = options.folds or MIN_FOLDS
    what = f"each of the {num_parts} folds" if options.folds else "train, valid and test"
    has_class = counts > 0
    lines = [f"{file}: {what} must hold every class, and no group may be in two of them; this is impossible"]
    linked = ", ".join(options.group)
    lines.append(f"the utterances form {len(groups)} groups that share {linked}: {_sizes(groups, counts)}")
    rare = False
    for label, in_groups in zip(labels, has_class.T, strict=True):
        number = int(in_groups.sum())
        if number < num_parts:
            rare = True
            names = [groups.names[i] for i in in_groups.nonzero()[0]]
            noun = "group" if number == 1 else "groups"
            lines.append(f"  {label!r} is in {number} {noun} (of {name_some(names)}), and {num_parts} are needed")
    if not rare:
        lines.append("  each class is in enough groups, but no assignment of the groups gives every part all classes")
    return InputError("\n".join([*lines, *_what_is_possible(options, groups, labels, has_class, num_parts)]))


def _sizes(groups: Groups, counts: Array) -> str:
    """Return the sizes of the largest groups, which are named by their first utterance."""
    sizes = counts.sum(axis=1)
    order = sorted(range(len(groups)), key=lambda i: (-int(sizes[i]), i))
    return name_some([f"{int(sizes[i])} with {groups.names[i]}" for i in order])


def _what_is_possible(
    options: SplitOptions, groups: Groups, labels: Sequence[str], has_class: Array, num_parts: int
) -> list[str]:
    """Return lines that say what can be done instead."""
    numbers = has_class.sum(axis=0)
    for fewer in range(min(num_parts - 1, int(numbers.min())), MIN_FOLDS - 1, -1):
        if find_cover(has_class, fewer) is not None:
            return [f"possible: --folds {fewer}"]
    rare = [repr(label) for label, number in zip(labels, numbers, strict=True) if number < MIN_FOLDS]
    lines = []
    if rare and len(rare) < len(labels) - 1:
        lines.append(f"possible: merge {', '.join(rare)} with another class, or leave out their lines")
    if len(options.group) > 1:
        lines.append("possible: fewer keys in --group, if what they connect is no leak")
    return lines or ["possible: more speakers"]
