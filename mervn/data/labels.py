"""Task labels: emotions after renaming (--label-map) and dropping (--drop-label).

Dropped utterances are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from features.errors import MAX_NAMED, InputError, UsageError
from features.manifests.label_names import lookalike_hint
from features.manifests.manifest import Utterance
from features.manifests.utterances import emotion_codes, select, with_emotions
from features.suggestions import did_you_mean
from mervn.config import LabelOptions


@dataclass(frozen=True)
class Labelled:
    """Utterances with the labels of the task."""

    utterances: dict[str, Sequence[Utterance]]
    """By split; the emotions are renamed."""
    dropped: dict[str, dict[str, int]]
    """By split, the number of dropped utterances of each label."""


def task_label(options: LabelOptions) -> Callable[[str], str | None]:
    """Return a function from an emotion to its task label, or to None if it is dropped.

    UsageError for an invalid --label-map.
    """
    renamed = _parse_map(options.label_map)

    def label_of(emotion: str) -> str | None:
        label = renamed.get(emotion, emotion)
        return None if label in options.drop_label else label

    return label_of


def apply_labels(
    manifests: Mapping[str, Sequence[Utterance]], options: LabelOptions, *, require_all: bool = True
) -> Labelled:
    """Rename emotions, then drop utterances with a label of --drop-label.

    UsageError if --label-map is not old=new or, with `require_all`, if an option names an emotion
    that no split has. InputError for an emotion that is neither in --labels nor in --drop-label.
    """
    renamed = _parse_map(options.label_map)
    if require_all:
        _require_emotions(options, renamed, manifests)
    utterances: dict[str, Sequence[Utterance]] = {}
    dropped: dict[str, dict[str, int]] = {}
    unlisted: list[Utterance] = []
    for split, labelled in manifests.items():
        codes, emotions = emotion_codes(labelled)
        labels = [renamed.get(str(emotion), str(emotion)) for emotion in emotions]  # by code
        is_dropped = np.isin(codes, [code for code, label in enumerate(labels) if label in options.drop_label])
        # counted by the new name, as in --drop-label
        counts = Counter(labels[code] for code in codes[is_dropped].tolist())
        dropped[split] = dict(sorted(counts.items()))
        utterances[split] = kept = select(with_emotions(labelled, labels), ~is_dropped)
        other = [code for code, label in enumerate(labels) if options.labels and label not in options.labels]
        unlisted += select(kept, np.isin(codes[~is_dropped], other))
    _refuse_unlisted(unlisted, options.labels)
    return Labelled(utterances, dropped)


def emotions_of(utterances: Sequence[Utterance]) -> set[str]:
    """Return the emotions that utterances have."""
    codes, emotions = emotion_codes(utterances)
    return {str(emotions[code]) for code in np.unique(codes).tolist()}


def _refuse_unlisted(unlisted: Sequence[Utterance], labels: Sequence[str]) -> None:
    """Raise InputError if there are utterances whose label is not one of --labels."""
    if unlisted:
        raise InputError(
            f"emotions must be one of --labels {','.join(labels)}, but {describe_emotions(unlisted, labels)}; "
            "rename them with --label-map or leave them out with --drop-label"
        )


def describe_emotions(utterances: Sequence[Utterance], labels: Sequence[str]) -> str:
    """Describe emotions that are not among the labels: how many, and the first few.

    The result is part of a message.
    """
    places = []
    for utterance in utterances[:MAX_NAMED]:
        places.append(f"{utterance.file}:{utterance.line} {utterance.emotion!r}")
    hint = lookalike_hint((str(utterance.emotion) for utterance in utterances), labels)
    return f"{len(utterances)} are not: {', '.join(places)}{hint}"


def _require_emotions(
    options: LabelOptions, renamed: Mapping[str, str], manifests: Mapping[str, Sequence[Utterance]]
) -> None:
    """Raise UsageError if a label option names an emotion that the manifests do not have."""
    # --label-map renames emotions of the manifests; the other options name labels after renaming.
    emotions = set(chain.from_iterable(map(emotions_of, manifests.values())))
    labels = {renamed.get(emotion, emotion) for emotion in emotions}
    _require_names("--label-map", renamed, emotions)
    _require_names("--drop-label", options.drop_label, labels)
    _require_names("--labels", options.labels, labels)


def _require_names(flag: str, names: Iterable[str], existing: Collection[str]) -> None:
    """Raise UsageError for names of an option that the manifests do not have."""
    absent = sorted(set(names) - set(existing))
    if absent:
        hints = "".join(did_you_mean(label, existing) for label in absent)
        raise UsageError(
            f"{flag} must name emotions of the manifests ({', '.join(sorted(existing))}), found {absent}{hints}"
        )


def _parse_map(entries: Sequence[str]) -> dict[str, str]:
    """Return the new name of each old one; UsageError for an invalid --label-map."""
    renamed = {}
    for entry in entries:
        old, equals, new = entry.partition("=")
        if not (old and equals and new) or old in renamed:
            raise UsageError(f"--label-map must be old=new,... with every old once, found {','.join(entries)}")
        renamed[old] = new
    return renamed
