"""Which emotions a head tells apart: renamed, merged or left out as the options say, and always counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from features.errors import InputError, UsageError
from features.manifest import Utterance
from mervn.config import LabelOptions

SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """Utterances with the labels of the task."""

    utterances: dict[str, list[Utterance]]
    """By split, their emotions renamed."""
    dropped: dict[str, dict[str, int]]
    """By split, how many utterances of each label were left out."""


def apply_labels(
    manifests: Mapping[str, Sequence[Utterance]], options: LabelOptions, *, all_there: bool = True
) -> Labelled:
    """Rename emotions, then leave out those to be dropped.

    UsageError where --label-map is not old=new; InputError where an emotion stands neither in --labels nor in
    --drop-label, or, if `all_there`, an option names one that no split has.
    """
    renamed = _parse_map(options.label_map)
    known = {str(utterance.emotion) for rows in manifests.values() for utterance in rows}
    after = {renamed.get(label, label) for label in known}
    for flag, names, there in (
        ("--label-map", renamed.keys(), known),
        ("--drop-label", options.drop_label, after),
        ("--labels", options.labels, after),
    ):
        absent = sorted(set(names) - there)
        if absent and all_there:
            raise InputError(f"{flag} must name emotions of the manifests ({', '.join(sorted(there))}), found {absent}")
    utterances: dict[str, list[Utterance]] = {}
    dropped: dict[str, dict[str, int]] = {}
    strangers: list[Utterance] = []
    for split, rows in manifests.items():
        mapped = [replace(u, emotion=renamed.get(str(u.emotion), str(u.emotion))) for u in rows]
        left_out = Counter(str(u.emotion) for u in mapped if u.emotion in options.drop_label)
        dropped[split] = dict(sorted(left_out.items()))
        utterances[split] = [u for u in mapped if u.emotion not in options.drop_label]
        strangers += [u for u in utterances[split] if options.labels and u.emotion not in options.labels]
    if strangers:
        places = ", ".join(f"{u.file}:{u.line} {u.emotion!r}" for u in strangers[:SHOWN])
        raise InputError(
            f"emotions must be one of --labels {','.join(options.labels)}; {len(strangers)} are not, such as {places}: "
            "rename them with --label-map or leave them out with --drop-label"
        )
    return Labelled(utterances, dropped)


def _parse_map(entries: Sequence[str]) -> dict[str, str]:
    renamed = {}
    for entry in entries:
        old, equals, new = entry.partition("=")
        if not (old and equals and new) or old in renamed:
            raise UsageError(f"--label-map must be old=new,... with every old once, found {','.join(entries)}")
        renamed[old] = new
    return renamed
