"""Samplers: the batches of each epoch, as a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features import random_streams
from features.batching import Batches
from features.random_streams import Purpose
from mervn.registry import SAMPLINGS

Array = np.ndarray[Any, Any]
RANK_JITTER = 0.25
"""Standard deviation, in batches, of the noise on an utterance's rank by length. At 0.25 about half
of each batch is new in every epoch, and padding hardly grows, for corpora of any size."""
WINDOW = 8
"""Number of batches of similar l_mix within which utterances are sorted by the frames of the
longest stream, because that stream causes most of the padding."""


@dataclass(frozen=True)
class BatchSize:
    """Size of a batch: a number of utterances, or a budget of padded frames."""

    lengths: Array
    """(streams, N) integers: frames or tokens of each utterance in each stream."""
    utterances: int | None = None
    frame_budget: int | None = None
    """Maximum padded frames per batch: maximum length times utterances, summed over the streams. An
    utterance that is longer than the budget forms a batch of its own."""

    @property
    def average(self) -> float:
        """Approximate number of utterances per batch."""
        if self.utterances is not None:
            return self.utterances
        return max(1.0, (self.frame_budget or 1) / max(1.0, float(self.lengths.sum(0).mean())))

    @property
    def longest_stream(self) -> Array:
        """(N,) lengths in the stream that has the most frames in total."""
        longest: Array = self.lengths[self.lengths.sum(1).argmax()]
        return longest

    def split(self, order: Array) -> Batches:
        """Split an order (N,) of utterances into consecutive batches."""
        count = len(order)
        if self.utterances is not None:
            return Batches(order, np.minimum(np.arange(0, count, self.utterances) + self.utterances, count))
        ends: list[int] = []  # of the batches before the last one
        first = 0  # of the last batch
        maximum: tuple[int, ...] = ()  # length of the longest utterance of the last batch, by stream
        for place, lengths in enumerate(zip(*[stream[order].tolist() for stream in self.lengths], strict=True)):
            # maximum lengths if this utterance joins the last batch
            padded = tuple(map(max, maximum, lengths)) if place else lengths
            if place and sum(padded) * (place - first + 1) > (self.frame_budget or 0):
                ends.append(place)
                first, padded = place, lengths
            maximum = padded
        return Batches(order, np.array([*ends, count] if count else [], np.int64))


def mixed_lengths(audio_seconds: Array, syllables: Array, alpha: float) -> Array:
    """Return l_mix = audio seconds + alpha * syllables (split at white space), (N,)."""
    return audio_seconds + alpha * syllables


def sampling_weights(targets: Array, lengths: Array, beta: float) -> Array:
    """Return sample weights (N,): w_c = 1 / (f_c r_c^beta) for an utterance of class c.

    f_c is the class frequency over the mean frequency; r_c is the class's mean l_mix over the mean
    of the class means. Classes without utterances are left out of the means.
    """
    classes, positions, frequencies = np.unique(targets, return_inverse=True, return_counts=True)
    means = np.array([lengths[targets == c].mean() for c in classes], np.float64)
    relative = means / means.mean() if means.mean() > 0 else np.ones_like(means)
    relative = np.where(relative > 0, relative, 1.0)
    weights: Array = 1 / (frequencies / frequencies.mean() * relative**beta)  # by class
    per_utterance: Array = weights[positions]
    return per_utterance


def epoch_batches(
    sampling: str, lengths: Array, weights: Array, batch_size: BatchSize, seed: int, epoch: int
) -> Batches:
    """Return the batches of one epoch as indices into the N utterances.

    `random` and `bucket` contain every utterance exactly once; `weighted` and `both` contain N
    draws with replacement, in proportion to `weights`. `bucket` and `both` form batches of
    utterances of similar l_mix and similar length. Batches and their order change every epoch.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, found {sampling!r}")
    generator = random_streams.generator(Purpose.SAMPLING, seed, epoch)
    count = len(lengths)
    if sampling in ("weighted", "both"):
        drawn = generator.choice(count, count, p=weights / weights.sum())
    else:
        drawn = generator.permutation(count)
    if sampling in ("random", "weighted"):
        return batch_size.split(drawn)
    # sort by l_mix, then by length within windows of batches; noise on the ranks makes the batches
    # differ between epochs
    ranked = drawn[np.argsort(lengths[drawn], kind="stable")]
    windows = np.arange(count) // max(1, round(WINDOW * batch_size.average))
    ranked = ranked[np.lexsort((batch_size.longest_stream[ranked], windows))]
    noise = generator.normal(0.0, RANK_JITTER * batch_size.average, count)
    batches = batch_size.split(ranked[np.argsort(np.arange(count) + noise, kind="stable")])
    return batches.reordered(generator.permutation(len(batches)))


def divide_batches(batches: Sequence[Array], num_processes: int) -> list[list[list[int]]]:
    """Divide each batch of a step among processes.

    `batches` are the costs (B,) of the utterances of each batch. Returns, by batch and process,
    ascending positions in the batch. Utterances are assigned in order of falling cost, each to the
    process with the lowest total cost in this step (Graham 1969). For a single batch the maximum
    cost of a process is at most 4/3 of the optimum.
    """
    loads = [0.0] * num_processes
    divided = []
    for costs in batches:
        portions: list[list[int]] = [[] for _ in range(num_processes)]
        for place in np.argsort(-costs, kind="stable").tolist():
            lightest = loads.index(min(loads))
            portions[lightest].append(place)
            loads[lightest] += float(costs[place])
        divided.append(list(map(sorted, portions)))
    return divided


def padding_efficiency(lengths: Array, batches: Sequence[Sequence[int]]) -> float:
    """Return the ratio of real to padded frames of one stream in batches; 1 without frames."""
    real = padded = 0
    for batch in batches:
        in_batch = lengths[list(batch)]
        real += int(in_batch.sum())
        padded += int(in_batch.max()) * len(batch)
    return real / padded if padded else 1.0
