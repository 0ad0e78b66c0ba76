"""Labels of the task: emotions are renamed, merged or left out as the options say, and always counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from features.errors import InputError, UsageError
from features.manifests.label_names import lookalike_hint
from features.manifests.manifest import Utterance
from features.suggestions import did_you_mean
from mervn.config import LabelOptions

SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """Utterances with the labels of the task."""

    utterances: dict[str, list[Utterance]]
    """By split, their emotions renamed."""
    dropped: dict[str, dict[str, int]]
    """By split, how many utterances of each label were left out."""


def task_label(options: LabelOptions) -> Callable[[str], str | None]:
    """Return what becomes of an emotion: renamed, or None if it is left out; UsageError for a wrong --label-map."""
    renamed = _parse_map(options.label_map)

    def label_of(emotion: str) -> str | None:
        label = renamed.get(emotion, emotion)
        return None if label in options.drop_label else label

    return label_of


def apply_labels(
    manifests: Mapping[str, Sequence[Utterance]], options: LabelOptions, *, all_there: bool = True
) -> Labelled:
    """Rename emotions, then leave out those to be dropped.

    UsageError where --label-map is not old=new or, if `all_there`, an option names an emotion that no split has;
    InputError where an emotion stands neither in --labels nor in --drop-label.
    """
    renamed, label_of = _parse_map(options.label_map), task_label(options)
    known = {str(utterance.emotion) for utterance in chain.from_iterable(manifests.values())}
    after = {renamed.get(label, label) for label in known}
    if all_there:
        _require_known("--label-map", renamed, known)
        _require_known("--drop-label", options.drop_label, after)
        _require_known("--labels", options.labels, after)
    utterances: dict[str, list[Utterance]] = {}
    dropped: dict[str, dict[str, int]] = {}
    strangers: list[Utterance] = []
    for split, every in manifests.items():
        kept = [u for u in every if label_of(str(u.emotion)) is not None]
        left_out = Counter(renamed.get(str(u.emotion), str(u.emotion)) for u in every)
        dropped[split] = {label: left_out[label] for label in sorted(options.drop_label) if left_out[label]}
        utterances[split] = [replace(u, emotion=label_of(str(u.emotion))) for u in kept]
        strangers += [u for u in utterances[split] if options.labels and u.emotion not in options.labels]
    if strangers:
        places = ", ".join(f"{u.file}:{u.line} {u.emotion!r}" for u in strangers[:SHOWN])
        raise InputError(
            f"emotions must be one of --labels {','.join(options.labels)}; {len(strangers)} are not, such as {places}"
            f"{lookalike_hint((str(u.emotion) for u in strangers), options.labels)}: "
            "rename them with --label-map or leave them out with --drop-label"
        )
    return Labelled(utterances, dropped)


def _require_known(flag: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise UsageError for names that the manifests do not have."""
    absent = sorted(set(names) - set(known))
    if absent:
        near = [did_you_mean(label, known) for label in absent]
        raise UsageError(
            f"{flag} must name emotions of the manifests ({', '.join(sorted(known))}), found {absent}{''.join(near)}"
        )


def _parse_map(entries: Sequence[str]) -> dict[str, str]:
    renamed = {}
    for entry in entries:
        old, equals, new = entry.partition("=")
        if not (old and equals and new) or old in renamed:
            raise UsageError(f"--label-map must be old=new,... with every old once, found {','.join(entries)}")
        renamed[old] = new
    return renamed
