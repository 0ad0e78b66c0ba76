"""Findings about transcripts: repeated, empty, in another Unicode form, or telling the label."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from features.audit.chance import Association, association, one_symbol
from features.audit.corpus import Corpus
from features.audit.explanations import finding
from features.audit.finding import Finding, counts_by_split
from features.audit.groups import first_in_each_split, overlapping
from features.counts import counted

MIN_FRACTION = 0.02
"""A smaller fraction of a split changes its scores less than its uncertainty: then only info."""
MIN_SKILL = 0.1


def text_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the findings about transcripts."""
    yield from overlap_findings(corpus)
    yield from _empty_transcripts(corpus)
    yield from _empty_by_class(corpus)
    yield from _transcript_is_label(corpus)
    yield from _not_nfc(corpus)


def overlap_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yield the finding about sentences in several splits."""
    shared = list(overlapping(corpus, [text or None for text in corpus.texts]).values())
    if not shared:
        return
    counts = _repeated_from_before(corpus, shared)
    totals = Counter(utterance.split for utterance in corpus.utterances)
    parts = []
    for split, count in counts.items():
        before = " or ".join(corpus.splits[: corpus.splits.index(split)])
        parts.append(f"{count} of {totals[split]} utterances of {split} repeat a sentence of {before}")
    is_many = any(count > MIN_FRACTION * totals[split] for split, count in counts.items())
    message = f"{counted(len(shared), 'sentence')} in several splits: {'; '.join(parts)}"
    examples = first_in_each_split(corpus, shared)
    yield finding("transcript_overlap", "warning" if is_many else "info", len(shared), message, examples)


def _repeated_from_before(corpus: Corpus, shared: list[list[int]]) -> Counter[str]:
    """Count, by split, the utterances whose sentence is in an earlier split too."""
    counts: Counter[str] = Counter()
    for members in shared:
        first = min(corpus.split_index[index] for index in members)
        counts.update(corpus.utterances[i].split for i in members if corpus.split_index[i] > first)
    return counts


def _empty_transcripts(corpus: Corpus) -> Iterator[Finding]:
    empty = [index for index, text in enumerate(corpus.texts) if not text]
    if not empty:
        return
    parts = counts_by_split(corpus.at(empty), corpus.utterances)
    message = f"{counted(len(empty), 'utterance')} without words in the transcript: {parts}"
    yield finding("empty_transcript", "info", len(empty), message, corpus.at(empty))


def _empty_by_class(corpus: Corpus) -> Iterator[Finding]:
    empty = [index for index, text in enumerate(corpus.texts) if not text]
    if not empty or len(empty) == len(corpus.texts):
        return
    found = _strongest_by_emptiness(corpus)
    if found is not None and found.beats_chance():
        rates = []
        for number, label in enumerate(corpus.labels):
            of_label = np.flatnonzero(corpus.targets == number)
            count = sum(not corpus.texts[index] for index in of_label)
            rates.append(f"{count} of {len(of_label)} {label}")
        message = f"{counted(len(empty), 'empty transcript')} not spread evenly: {', '.join(rates)} ({found})"
        yield finding("empty_transcript_by_class", "warning", len(empty), message, corpus.at(empty))


def _strongest_by_emptiness(corpus: Corpus) -> Association | None:
    """Test each label against all others, and return the test with the highest bound.

    One trait of two values cannot tell more than two sides.
    """
    is_empty = one_symbol([not text for text in corpus.texts])
    numbers = range(1 if len(corpus.labels) == 2 else len(corpus.labels))
    tests = []
    for number in numbers:
        sides = np.where(corpus.targets < 0, -1, corpus.targets == number)
        found = association(is_empty, sides, corpus.groups, num_tests=len(numbers))
        if found is not None:
            tests.append(found)
    return max(tests, key=lambda found: found.low, default=None)


def _transcript_is_label(corpus: Corpus) -> Iterator[Finding]:
    """Test a table of sentences.

    Each split is predicted from the others: a table of its own sentences would say nothing about
    scores if the splits have no sentence in common. A single split is divided by groups.
    """
    spoken = np.array([index for index, text in enumerate(corpus.texts) if text], np.int64)
    if not len(spoken):
        return
    splits = corpus.split_index[spoken]
    folds = splits if len(np.unique(splits)) > 1 else None
    sentences = one_symbol([corpus.texts[index] for index in spoken])
    found = association(sentences, corpus.targets[spoken], corpus.groups[spoken], folds)
    if found is not None and found.beats_chance(MIN_SKILL):
        counts = Counter(corpus.texts)
        repeated = [index for index in spoken.tolist() if counts[corpus.texts[index]] > 1]
        message = f"{counted(len(repeated), 'utterance')} of repeated sentences, which tell the label ({found})"
        yield finding("transcript_is_label", "warning", len(repeated), message, corpus.at(repeated))


def _not_nfc(corpus: Corpus) -> Iterator[Finding]:
    found = [u for u in corpus.utterances if u.transcript and not unicodedata.is_normalized("NFC", u.transcript)]
    if found:
        message = f"{counted(len(found), 'transcript')} not in Unicode NFC"
        yield finding("transcript_not_nfc", "info", len(found), message, found)
