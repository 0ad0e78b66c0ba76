"""Checks that every imported corpus passes: groups in two splits, labels in ids, repeated audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from features.audit.corpus import text_keys
from features.corpora.items import Finding, Item
from features.corpora.protocol import Protocol

DOMINANT = 0.25
"""Fraction of the utterances from which a speaker is dominant."""
LABEL_IN_ID = 0.05
"""Fraction of ids with their label from which it is reported: a short word can be in one by chance."""
MIN_SPEAKERS = 6
"""Number of speakers in test, of all folds, below which no paired test by speaker is possible."""
PARALLEL = 0.2
"""Fraction of the transcripts of test that are in train, from which it is reported."""


def check_items(items: Sequence[Item]) -> Iterator[Finding]:
    """Yield findings about utterances, whatever their split."""
    yield from _check_speakers(items)
    yield from _check_transcripts(items)
    yield from _check_audio(items)
    named = [item.utterance_id for item in items if _label_in_id(item)]
    if len(named) > LABEL_IN_ID * len(items):
        message = f"the label is in {len(named)} of {len(items)} utterance ids: no model may read them"
        yield Finding("label_in_id", "info", message, tuple(named))


def _label_in_id(item: Item) -> bool:
    name = item.utterance_id.casefold()
    spellings = (str(item.label), str(item.source_label))
    return any(len(each) >= 3 and each.casefold() in name for each in spellings)


def _check_speakers(items: Sequence[Item]) -> Iterator[Finding]:
    unknown = [item.utterance_id for item in items if item.speaker_id is None]
    if unknown:
        message = f"the speaker of {len(unknown)} of {len(items)} utterances is unknown"
        yield Finding("speaker_unknown", "warning", message, tuple(unknown))
    counts = Counter(item.speaker_id for item in items if item.speaker_id is not None)
    if len(counts) > 1 and len(counts) == len(items):
        message = "there are as many speakers as utterances: are these speakers, or names of files?"
        yield Finding("speaker_is_utterance", "warning", message)
    for speaker, count in counts.most_common(1):
        if count > DOMINANT * len(items) and len(counts) > 2:
            share = round(100 * count / len(items))
            message = f"speaker {speaker} has {share} % of the utterances ({count} of {len(items)})"
            yield Finding("dominant_speaker", "warning", message, (speaker,))


def _check_transcripts(items: Sequence[Item]) -> Iterator[Finding]:
    empty = [item for item in items if not (item.transcript or "").strip()]
    if not empty:
        return
    if len(empty) == len(items):
        yield Finding("no_transcripts", "info", "the corpus has no transcripts")
        return
    counts = Counter(str(item.label) for item in empty)
    never = sorted({str(item.label) for item in items} - set(counts))
    by_class = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
    hint = f"; none of {', '.join(never)}, so that emptiness tells about the label" if never else ""
    message = f"{len(empty)} transcripts are empty: {by_class}{hint}"
    yield Finding("empty_transcript_by_class", "warning", message, tuple(item.utterance_id for item in empty))


def _check_audio(items: Sequence[Item]) -> Iterator[Finding]:
    """Yield findings about equal audio, for formats whose reader has the bytes."""
    same: dict[str, list[Item]] = {}
    for item in items:
        if item.sha256 is not None:
            same.setdefault(item.sha256, []).append(item)
    repeated = [group for group in same.values() if len(group) > 1]
    labels = [group for group in repeated if len(set(map(attrgetter("label"), group))) > 1]
    speakers = [group for group in repeated if len(set(map(attrgetter("speaker_id"), group))) > 1]
    for name, groups, what in (
        ("duplicate_audio", repeated, "have the same audio"),
        ("conflicting_labels", labels, "have the same audio and different labels"),
        ("conflicting_speakers", speakers, "have the same audio and different speakers"),
    ):
        if groups:
            message = f"{len(groups)} groups of utterances {what} ({sum(map(len, groups))} utterances)"
            yield Finding(name, "warning", message, tuple(map(_names, groups)))


def _names(items: Sequence[Item]) -> str:
    return " = ".join(item.utterance_id for item in items)


def check_protocol(protocol: Protocol, items: Sequence[Item], unit: str) -> Iterator[Finding]:
    """Yield findings about the splits: groups, transcripts or audio in two, missing labels."""
    of_id = {item.utterance_id: item for item in items}
    for number, fold in enumerate(protocol.parts, 1):
        place = f"fold {number}: " if protocol.folds else ""
        parts = {split: list(map(of_id.__getitem__, names)) for split, names in fold.items()}
        yield from _check_overlap(parts, unit, place)
        yield from _check_labels(parts, place)
        if number == 1:
            yield from _check_transcripts_of_test(parts)
    tested = {name for fold in protocol.parts for name in fold["test"]}
    speakers = {of_id[name].speaker_id for name in tested} - {None}
    if 0 < len(speakers) < MIN_SPEAKERS:
        message = f"test has {len(speakers)} speakers: below {MIN_SPEAKERS} no paired test by speaker is possible"
        yield Finding("few_speakers", "info", message)


Parts = Mapping[str, Sequence[Item]]


def _check_overlap(parts: Parts, unit: str, place: str) -> Iterator[Finding]:
    keys = [("speaker", "speaker_id"), ("recording", "recording"), ("audio", "sha256")]
    if unit != "speaker":
        keys.append((unit, "unit"))
    for name, attribute in keys:
        values = {split: _values(items, attribute) for split, items in parts.items()}
        for split, others in (("test", ("train", "valid")), ("valid", ("train",))):
            common = values[split] & set().union(*(values[other] for other in others))
            if common:
                where = " or ".join(others)
                message = f"{place}{len(common)} of {len(values[split])} {name}s of {split} are in {where}"
                yield Finding(f"{name}_overlap", "warning", message, tuple(sorted(common)))


def _values(items: Sequence[Item], attribute: str) -> set[str]:
    """Return the values of an attribute, without None."""
    return {getattr(item, attribute) for item in items} - {None}


def _check_labels(parts: Parts, place: str) -> Iterator[Finding]:
    labels = {split: _values(items, "label") for split, items in parts.items()}
    everything = set().union(*labels.values())
    for split, found in labels.items():
        lacking = sorted(everything - found)
        if lacking:
            yield Finding("class_missing", "warning", f"{place}{split} has no {', '.join(lacking)}")


def _check_transcripts_of_test(parts: Parts) -> Iterator[Finding]:
    known = set(text_keys([item.transcript or "" for item in parts["train"]]))
    tested = list(filter(None, text_keys([item.transcript or "" for item in parts["test"]])))
    common = sum(key in known for key in tested)
    if tested and common > PARALLEL * len(tested):
        message = f"{common} of {len(tested)} transcripts of test are in train too: text alone may repeat train"
        yield Finding("transcript_overlap", "warning", message)
