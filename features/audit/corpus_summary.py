"""Summary of a corpus: classes, speakers, durations and levels of each split, as a report shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.audit.audio_facts import AudioFacts
from features.audit.corpus import Array, Corpus

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MIN_RMS, MAX_RMS = 1e-6, 1e6
"""-120 and 120 dB of full scale: silence has no level, and a file of numbers can hold any."""
UNLABELLED = ""
"""Stands for utterances without a label; no label is empty."""
Quantiles = tuple[float, ...]
"""One number for each of `QUANTILES`."""


@dataclass(frozen=True)
class SplitSummary:
    """Content of one split."""

    utterances: int
    classes: dict[str, int]
    """Number of utterances of each label, and of `UNLABELLED` if there are any."""
    speakers: int
    effective_speakers: float
    """(sum n)^2 / sum n^2 for speakers of n utterances each."""
    largest_speaker: int
    """Number of utterances of the speaker that has most."""
    unknown_speaker: int
    """Number of utterances without a speaker."""
    without_words: int
    """Number of utterances without words in the transcript."""
    seconds: float
    """Sum of the durations that are known."""
    unknown_duration: int
    """Number of utterances whose duration is not known."""
    durations: dict[str, Quantiles]
    """Quantiles of the seconds of each class."""
    levels: dict[str, Quantiles]
    """Quantiles of the level of each class, RMS in dB of full scale."""


@dataclass(frozen=True)
class CorpusSummary:
    """Content of a corpus, by split."""

    splits: dict[str, SplitSummary]
    sample_rates: dict[str, int]
    """Number of utterances of each rate in Hz, of the audio that was measured."""
    channels: dict[str, int]
    """Number of utterances of each number of channels, of the audio that was measured."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def summarize_corpus(corpus: Corpus) -> CorpusSummary:
    """Return the summary of a corpus."""
    seconds = np.array([np.nan if value is None else value for value in corpus.seconds()])
    levels = np.array([_level(fact) for fact in corpus.facts])
    usable = [fact for fact in corpus.facts if fact is not None and fact.problem is None]
    splits = {}
    for number, split in enumerate(corpus.splits):
        splits[split] = _split(corpus, np.flatnonzero(corpus.split_index == number), seconds, levels)
    return CorpusSummary(
        splits, _counts([fact.sample_rate for fact in usable]), _counts([fact.num_channels for fact in usable])
    )


def _split(corpus: Corpus, members: Array, seconds: Array, levels: Array) -> SplitSummary:
    """Summarize the utterances at some indices."""
    utterances = corpus.at(members.tolist())
    sizes = Counter(one.speaker_id for one in utterances if one.speaker_id is not None)
    squares = sum(size**2 for size in sizes.values())
    by_class: dict[str, Array] = {}
    for target in np.unique(corpus.targets[members]).tolist():
        label = UNLABELLED if target < 0 else corpus.labels[target]
        by_class[label] = members[corpus.targets[members] == target]
    return SplitSummary(
        utterances=len(members),
        classes={label: len(of_label) for label, of_label in by_class.items()},
        speakers=len(sizes),
        effective_speakers=round(sizes.total() ** 2 / squares, 4) if squares else 0.0,
        largest_speaker=max(sizes.values(), default=0),
        unknown_speaker=len(utterances) - sizes.total(),
        without_words=sum(not corpus.texts[index] for index in members.tolist()),
        seconds=round(float(np.nansum(seconds[members])), 4),
        unknown_duration=int(np.isnan(seconds[members]).sum()),
        durations=_quantiles(by_class, seconds),
        levels=_quantiles(by_class, levels),
    )


def _quantiles(by_class: dict[str, Array], values: Array) -> dict[str, Quantiles]:
    """Return the quantiles of the known values of each class that has some."""
    found = {}
    for label, members in by_class.items():
        known = values[members]
        known = known[~np.isnan(known)]
        if len(known):
            found[label] = tuple(np.quantile(known, QUANTILES).round(4).tolist())
    return found


def _level(fact: AudioFacts | None) -> float:
    """Return RMS in dB of full scale; NaN if the audio was not measured or cannot be used."""
    if fact is None or fact.problem is not None:
        return float("nan")
    return float(20 * np.log10(min(max(fact.rms, MIN_RMS), MAX_RMS)))


def _counts(values: Sequence[int]) -> dict[str, int]:
    """Count values, the most frequent first."""
    return {str(value): count for value, count in Counter(values).most_common()}
