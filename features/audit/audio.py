"""Findings about audio: unusable, clipped, silent, duplicate, or telling the label by its form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from features.audit.audio_facts import AudioFacts
from features.audit.chance import association, one_symbol, quantile_bins
from features.audit.corpus import Corpus
from features.audit.explanations import finding
from features.audit.finding import NO_LABEL, Finding
from features.audit.groups import is_across
from features.counts import counted
from features.manifests.manifest import Utterance

BEYOND_FULL_SCALE = 1.5
"""Lossy formats decode clipped audio to a little more than full scale; this is another scale of numbers."""
SILENT_PEAK = 1e-3
"""-60 dB of full scale."""
CLIPPED_FRACTION = 1e-3
MIN_CORRELATION = 0.5
"""The channels of one voice in a room correlate more."""
MIN_SKILL = 0.1
END_PAST_FILE = "end_past_file"
Measured = list[tuple[int, Utterance, AudioFacts]]


def audio_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about audio that was measured, and about durations."""
    facts, usable = _measured(corpus), usable_audio(corpus)
    yield from _unusable(facts)
    yield from _levels(usable)
    yield from duplicate_findings(corpus)
    yield from _conflicting_labels(corpus, usable)
    yield from _duration_by_class(corpus)
    yield from _rate_by_class(corpus, usable)


def _measured(corpus: Corpus) -> Measured:
    """Return the utterances whose audio was measured."""
    found: Measured = []
    for index, (utterance, fact) in enumerate(zip(corpus.utterances, corpus.facts, strict=True)):
        if fact is not None:
            found.append((index, utterance, fact))
    return found


def usable_audio(corpus: Corpus) -> Measured:
    """Return the utterances whose audio was measured and can be used."""
    return [entry for entry in _measured(corpus) if entry[2].problem is None]


def _unusable(facts: Measured) -> Iterator[Finding]:
    late = [u for _, u, fact in facts if fact.problem == END_PAST_FILE]
    moved = [u for _, u, fact in facts if fact.end_clipped]
    if late or moved:
        count = counted(len(late) + len(moved), "segment")
        message = f"{count} past the end of the file, {len(late)} by more than 0.05 s"
        yield finding("end_past_file", "error" if late else "info", len(late) + len(moved), message, late + moved)
    unreadable = [(u, fact) for _, u, fact in facts if fact.problem not in (None, END_PAST_FILE)]
    if unreadable:
        reasons = Counter(str(fact.problem) for _, fact in unreadable)
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        message = f"{counted(len(unreadable), 'utterance')} whose audio cannot be used ({counts}), "
        message += f"such as: {unreadable[0][1].detail}"
        yield finding("unreadable_audio", "error", len(unreadable), message, [u for u, _ in unreadable])


def _levels(usable: Measured) -> Iterator[Finding]:
    clipped = [(u, fact) for _, u, fact in usable if fact.clipped_fraction > CLIPPED_FRACTION]
    if clipped:
        message = f"{counted(len(clipped), 'utterance')} with more than {CLIPPED_FRACTION:.1%} of the samples cut off"
        beyond = [fact.peak for _, fact in clipped if fact.peak > BEYOND_FULL_SCALE]
        if beyond:
            message += f"; {len(beyond)} of them with samples up to {max(beyond):.4g}, where full scale is 1"
        yield finding("clipped_audio", "warning", len(clipped), message, [u for u, _ in clipped])
    silent = [u for _, u, fact in usable if fact.peak < SILENT_PEAK]
    if silent:
        message = f"{counted(len(silent), 'utterance')} with no sample louder than -60 dB of full scale"
        yield finding("silent_audio", "warning", len(silent), message, silent)
    apart = [u for _, u, fact in usable if fact.correlation is not None and fact.correlation < MIN_CORRELATION]
    if apart:
        message = f"{counted(len(apart), 'utterance')} as the mean of channels that correlate below {MIN_CORRELATION}"
        yield finding("decorrelated_stereo", "warning", len(apart), message, apart)


def duplicate_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about equal samples; silence of equal length is no copy."""
    groups = [members for members in same_audio(usable_audio(corpus)) if len(members) > 1]
    if groups:
        across = [members for members in groups if is_across(corpus, members)]
        copies = sum(map(len, groups)) - len(groups)
        message = (
            f"{counted(copies, 'copy', 'copies')} of audio of another utterance, in {counted(len(groups), 'group')}"
        )
        message += f"; {counted(len(across), 'group')} in several splits"
        examples = []
        for members in across or groups:
            examples += corpus.at(members[:2])
        yield finding("duplicate_audio", "error" if across else "warning", copies, message, examples)


def same_audio(usable: Measured) -> list[list[int]]:
    """Return groups of utterances with equal samples that are not silent."""
    by_content: dict[str, list[int]] = {}
    for index, _, fact in usable:
        if fact.peak >= SILENT_PEAK:
            by_content.setdefault(fact.sha256, []).append(index)
    return list(by_content.values())


def _conflicting_labels(corpus: Corpus, usable: Measured) -> Iterator[Finding]:
    """Find equal samples, or the same segment if it was not measured, with several labels."""
    groups = same_audio(usable)
    by_segment: dict[object, list[int]] = {}
    shared = np.bincount(corpus.files) > 1
    for index in np.flatnonzero(shared[corpus.files]).tolist():
        u = corpus.utterances[index]
        by_segment.setdefault((u.audio_path, u.start, u.end, u.channel), []).append(index)
    conflicts: dict[int, list[int]] = {}
    for members in groups + list(by_segment.values()):
        if len(members) == 1:
            continue
        labels = {corpus.utterances[i].emotion: i for i in members[::-1] if corpus.utterances[i].emotion is not None}
        if len(labels) > 1:
            conflicts.setdefault(min(labels.values()), sorted(labels.values()))
    if conflicts:
        examples = []
        for members in conflicts.values():
            examples += corpus.at(members)
        labels_of_first = " and ".join(str(u.emotion) for u in corpus.at(next(iter(conflicts.values()))))
        message = f"{counted(len(conflicts), 'group')} of equal audio with several labels, such as {labels_of_first}"
        yield finding("conflicting_labels", "error", len(conflicts), message, examples)


def _duration_by_class(corpus: Corpus) -> Iterator[Finding]:
    seconds = corpus.seconds()
    known = np.array([index for index, value in enumerate(seconds) if value is not None], np.int64)
    if not len(known):
        return
    values = np.array([seconds[index] for index in known], np.float64)
    targets = corpus.targets[known]
    found = association(one_symbol(quantile_bins(values)), targets, corpus.groups[known])
    if found is not None and found.beats_chance(MIN_SKILL):
        medians = []
        for number, label in enumerate(corpus.labels):
            if (targets == number).any():
                medians.append(f"{label} {np.median(values[targets == number]):.2f} s")
        message = f"{counted(len(known), 'utterance')} whose duration tells the label; medians: {', '.join(medians)}"
        message += f" ({found})"
        yield finding("duration_by_class", "warning", len(known), message, corpus.at(known.tolist()))


def _rate_by_class(corpus: Corpus, usable: Measured) -> Iterator[Finding]:
    rates = {index: fact.sample_rate for index, _, fact in usable}
    if len(set(rates.values())) < 2:
        return
    known = np.array(list(rates), np.int64)
    found = association(one_symbol(list(rates.values())), corpus.targets[known], corpus.groups[known])
    if found is not None and found.beats_chance(MIN_SKILL):
        parts = []
        for rate in sorted(set(rates.values())):
            labels = Counter(corpus.utterances[i].emotion or NO_LABEL for i, one in rates.items() if one == rate)
            counts = ", ".join(f"{name} {count}" for name, count in sorted(labels.items()))
            parts.append(f"{rate} Hz: {counts}")
        message = f"{counted(len(known), 'utterance')} whose sample rate tells the label; {'; '.join(parts)} ({found})"
        yield finding("sample_rate_by_class", "warning", len(known), message, corpus.at(known.tolist()))
