"""Findings about groups: speakers, recordings and segments that stand in several splits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from features.audit.corpus import Array, Corpus
from features.audit.explanations import finding
from features.audit.finding import MAX_EXAMPLES, Finding, Severity
from features.counts import counted
from features.manifests.manifest import Utterance

MIN_SPEAKERS = 4
"""Fewer speakers give no interval."""
MAX_FRACTION = 0.4
"""A speaker with a larger fraction of a split dominates it."""
MIN_UTTERANCES = 10
"""In a smaller corpus, each speaker can have one utterance by chance."""
UTTERANCES_PER_SPEAKER = 1.1
"""With fewer on average, speaker_id looks like the name of a file."""
MIN_OVERLAP = 0.5
"""Fraction of the shorter segment: segments of a conversation often overlap a little at their ends."""


def group_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about speakers, recordings and segments."""
    yield from speaker_overlap(corpus)
    yield from recording_overlap(corpus)
    yield from _segment_overlap(corpus)
    yield from _speaker_is_utterance(corpus)
    yield from _counts_of_speakers(corpus)
    yield from _unknown_speakers(corpus)


def overlapping(corpus: Corpus, keys: Sequence[Hashable | None]) -> dict[Hashable, list[int]]:
    """Return the utterances of each key (N) that is in several splits; None is no key."""
    members: dict[Hashable, list[int]] = {}
    for index, value in enumerate(keys):
        if value is not None:
            members.setdefault(value, []).append(index)
    return {value: found for value, found in members.items() if is_across(corpus, found)}


def is_across(corpus: Corpus, indices: Sequence[int]) -> bool:
    """Tell whether some utterances are in several splits."""
    return len(indices) > 1 and len({corpus.utterances[index].split for index in indices}) > 1


def first_in_each_split(corpus: Corpus, groups: list[list[int]]) -> list[Utterance]:
    """Return of each group the first utterance in each split, in the order of the splits."""
    found = []
    for members in groups:
        first: dict[int, Utterance] = {}
        for index in members:
            first.setdefault(int(corpus.split_index[index]), corpus.utterances[index])
        found += [first[split] for split in sorted(first)]
    return found


def speaker_overlap(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about speakers in several splits."""
    shared = overlapping(corpus, [utterance.speaker_id for utterance in corpus.utterances])
    if shared:
        names = ", ".join(map(repr, list(shared)[:3])) + (", ..." if len(shared) > 3 else "")
        size = sum(map(len, shared.values()))
        message = f"{counted(len(shared), 'speaker')} in several splits ({names}), with {counted(size, 'utterance')}"
        examples = first_in_each_split(corpus, list(shared.values()))
        yield finding("speaker_overlap", "error", len(shared), message, examples)


def recording_overlap(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about audio files in several splits."""
    shared = overlapping(corpus, corpus.files.tolist())
    if shared:
        size = sum(map(len, shared.values()))
        message = f"{counted(len(shared), 'audio file')} in several splits, with {counted(size, 'utterance')}"
        examples = first_in_each_split(corpus, list(shared.values()))
        yield finding("recording_overlap", "error", len(shared), message, examples)


def _segment_overlap(corpus: Corpus) -> Iterator[Finding]:
    count, num_across = 0, 0
    within: list[Utterance] = []
    across: list[Utterance] = []
    for pairs in overlapping_segments(corpus):
        splits = corpus.split_index[pairs]  # (P, 2)
        differs = splits[:, 0] != splits[:, 1]
        count, num_across = count + len(pairs), num_across + int(differs.sum())
        for examples, chosen in ((within, ~differs), (across, differs)):
            if len(examples) < MAX_EXAMPLES:
                examples += corpus.at(pairs[chosen][:MAX_EXAMPLES].ravel().tolist())
    if count:
        message = f"{counted(count, 'pair')} of utterances that share more than half of the seconds of the shorter one"
        message += f", {num_across} of them in two splits"
        severity: Severity = "error" if across else "warning"
        yield finding("segment_overlap", severity, count, message, across or within)


def overlapping_segments(corpus: Corpus) -> Iterator[Array]:
    """Yield pairs (P, 2) of utterances of one file, with a channel in common, that overlap."""
    ends = np.array([math.inf if u.end is None else u.end for u in corpus.utterances])
    by_file: dict[int, list[int]] = {}
    for index, (file, fact) in enumerate(zip(corpus.files.tolist(), corpus.facts, strict=True)):
        if fact is None or fact.problem is None:  # the times of other audio are not to be trusted
            by_file.setdefault(file, []).append(index)
        if fact is not None:
            ends[index] = corpus.utterances[index].start + fact.seconds
    for members in by_file.values():
        if len(members) > 1:
            yield from _overlapping_pairs(corpus, np.array(members), ends[members])


def _overlapping_pairs(corpus: Corpus, members: Array, ends: Array) -> Iterator[Array]:
    """Yield pairs (P, 2) of N utterances of one file that overlap, those of one utterance at a time.

    A file of thousands of segments that all overlap has millions of pairs, so they are not kept.
    """
    starts = np.array([utterance.start for utterance in corpus.at(members.tolist())])
    channels = np.array([-1 if u.channel == "mix" else u.channel for u in corpus.at(members.tolist())])
    order = np.lexsort((ends, starts))
    members, starts, ends, channels = members[order], starts[order], ends[order], channels[order]
    seconds = ends - starts
    last = np.searchsorted(starts, ends)  # the segments from here on start after the end
    for first in np.flatnonzero(last > np.arange(len(members)) + 1).tolist():
        later = np.arange(first + 1, last[first])
        common = np.minimum(ends[first], ends[later]) - starts[later]
        shorter = np.minimum(seconds[first], seconds[later])
        overlaps = (common > MIN_OVERLAP * shorter) | np.isinf(common)
        same_sound = (channels[later] == channels[first]) | (channels[later] < 0) | (channels[first] < 0)
        later = later[overlaps & same_sound]
        if len(later):
            yield np.stack([np.full(len(later), members[first]), members[later]], axis=1)


def _speaker_is_utterance(corpus: Corpus) -> Iterator[Finding]:
    known = [utterance for utterance in corpus.utterances if utterance.speaker_id is not None]
    if len(known) < MIN_UTTERANCES:
        return
    speakers = {utterance.speaker_id for utterance in known}
    named = [u for u in known if u.speaker_id in (u.utterance_id, _stem(u.wav_path))]
    is_file = len(named) > len(known) / 2 and len(speakers) > len(known) / 2
    if len(known) < UTTERANCES_PER_SPEAKER * len(speakers) or is_file:
        message = f"{counted(len(known), 'utterance')} of {len(speakers)} speakers"
        if is_file:
            message += f"; {len(named)} speakers are named after their utterance or file"
        yield finding("speaker_is_utterance", "warning", len(known), message, named or known)


def _stem(path: str) -> str:
    """Return the file name without its ending; `Path.stem` takes ten times as long."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _counts_of_speakers(corpus: Corpus) -> Iterator[Finding]:
    few: list[tuple[str, int]] = []
    dominant: list[tuple[str, str, int, int]] = []
    totals = Counter(utterance.split for utterance in corpus.utterances)
    for split in corpus.splits:
        counts = Counter(u.speaker_id for u in corpus.utterances if u.split == split and u.speaker_id is not None)
        if 0 < len(counts) < MIN_SPEAKERS:
            few.append((split, len(counts)))
        elif counts:
            (speaker, size), *_ = counts.most_common(1)
            if size > MAX_FRACTION * totals[split]:
                dominant.append((split, str(speaker), size, totals[split]))
    if few:
        message = "; ".join(f"{counted(number, 'speaker')} in {split}" for split, number in few)
        examples = [u for u in corpus.utterances if u.split in dict(few)]
        yield finding("few_speakers", "warning", few[0][1], message, examples[:1])
    if dominant:
        parts = []
        for split, speaker, size, total in dominant:
            parts.append(f"{size} of {total} utterances of {split} ({size / total:.0%}) are of {speaker!r}")
        of = {(split, speaker) for split, speaker, *_ in dominant}
        examples = [u for u in corpus.utterances if (u.split, u.speaker_id) in of]
        yield finding("dominant_speaker", "warning", dominant[0][2], "; ".join(parts), examples)


def _unknown_speakers(corpus: Corpus) -> Iterator[Finding]:
    unknown = [utterance for utterance in corpus.utterances if utterance.speaker_id is None]
    if unknown:
        counts = Counter(utterance.split for utterance in unknown)
        totals = Counter(utterance.split for utterance in corpus.utterances)
        parts = ", ".join(f"{count} of {totals[split]} in {split}" for split, count in counts.items())
        message = f"{counted(len(unknown), 'utterance')} of unknown speakers ({parts})"
        yield finding("unknown_speaker", "info", len(unknown), message, unknown)
