"""Samplers: which utterances make a batch in which epoch; a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features import random_streams
from features.random_streams import Purpose
from mervn.registry import SAMPLINGS

Array = np.ndarray[Any, Any]
RANK_JITTER = 0.25
"""Standard deviation, in batches, of the noise on an utterance's rank by length: about half of a batch is new in every
epoch, and padding hardly grows, however large the corpus."""
WINDOW = 8
"""Batches of similar l_mix within which utterances are sorted by the frames of the longest stream, which pads most."""


@dataclass(frozen=True)
class BatchSize:
    """Size of a batch: a number of utterances, or a budget of padded frames."""

    lengths: Array
    """(S, N) int64: frames or tokens of each stream of each utterance."""
    utterances: int | None = None
    frame_budget: int | None = None
    """Maximum padded frames per batch: maximum length times utterances, summed over the streams. A longer utterance is
    a batch of its own."""

    @property
    def average(self) -> float:
        """Approximate number of utterances per batch."""
        if self.utterances is not None:
            return self.utterances
        return max(1.0, (self.frame_budget or 1) / max(1.0, float(self.lengths.sum(0).mean())))

    @property
    def longest_stream(self) -> Array:
        """(N,) lengths of the stream that has the most frames in all."""
        longest: Array = self.lengths[self.lengths.sum(1).argmax()]
        return longest

    def split(self, order: Array) -> list[list[int]]:
        """Return the batches of an order (N,) of utterances."""
        if self.utterances is not None:
            return [order[i : i + self.utterances].tolist() for i in range(0, len(order), self.utterances)]
        batches: list[list[int]] = []
        maximum: list[int] = []  # (S,) of the last batch
        for index, lengths in zip(order.tolist(), self.lengths[:, order].T.tolist(), strict=True):
            wider = [max(pair) for pair in zip(maximum, lengths, strict=True)] if batches else lengths
            if batches and sum(wider) * (len(batches[-1]) + 1) <= (self.frame_budget or 0):
                batches[-1].append(index)
                maximum = wider
            else:
                batches.append([index])
                maximum = lengths
        return batches


def mixed_lengths(audio_seconds: Array, syllables: Array, alpha: float) -> Array:
    """Return l_mix = audio seconds + alpha * white-space syllables, (N,)."""
    return audio_seconds + alpha * syllables


def sampling_weights(targets: Array, lengths: Array, beta: float) -> Array:
    """Return sample weights (N,): w_c = 1 / (f_c r_c^beta) for an utterance of class c.

    f_c is the class frequency over the mean frequency, r_c the class's mean l_mix over the mean of the class means;
    classes without utterances do not count.
    """
    classes = np.unique(targets)
    frequencies = np.array([(targets == c).sum() for c in classes], np.float64)
    means = np.array([lengths[targets == c].mean() for c in classes], np.float64)
    relative = means / means.mean() if means.mean() > 0 else np.ones_like(means)
    relative = np.where(relative > 0, relative, 1.0)
    weights = 1 / (frequencies / frequencies.mean() * relative**beta)
    table = dict(zip(classes.tolist(), weights.tolist(), strict=True))
    return np.array([table[target] for target in targets.tolist()])


def epoch_batches(
    sampling: str, lengths: Array, weights: Array, batch_size: BatchSize, seed: int, epoch: int
) -> list[list[int]]:
    """Return the batches of one epoch as indices into the N utterances.

    `random` and `bucket` hold every utterance exactly once; `weighted` and `both` hold N draws with replacement by
    `weights`. `bucket` and `both` put utterances of similar l_mix, and among those of similar lengths, into one batch.
    Batches and their order change every epoch.
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
    ranked = drawn[np.argsort(lengths[drawn], kind="stable")]
    windows = np.arange(count) // max(1, round(WINDOW * batch_size.average))
    ranked = ranked[np.lexsort((batch_size.longest_stream[ranked], windows))]
    noise = generator.normal(0.0, RANK_JITTER * batch_size.average, count)
    batches = batch_size.split(ranked[np.argsort(np.arange(count) + noise, kind="stable")])
    return [batches[i] for i in generator.permutation(len(batches))]


def divide_batches(batches: Sequence[Array], num_processes: int) -> list[list[list[int]]]:
    """Return the places (ascending) of each batch of a step that each process gets, given the costs of utterances.

    `batches` are costs (B,). The most expensive utterance that is left of a batch goes to the process with the lowest
    cost so far in the step (Graham 1969): in a single batch no process gets more than 4/3 of the best division's.
    """
    loads = [0.0] * num_processes
    found = []
    for costs in batches:
        portions: list[list[int]] = [[] for _ in range(num_processes)]
        for place in np.argsort(-costs, kind="stable").tolist():
            lightest = loads.index(min(loads))
            portions[lightest].append(place)
            loads[lightest] += float(costs[place])
        found.append([sorted(portion) for portion in portions])
    return found


def padding_efficiency(lengths: Array, batches: Sequence[Sequence[int]]) -> float:
    """Return real over padded frames of one stream in these batches; 1 for a stream without frames."""
    real = sum(int(lengths[list(batch)].sum()) for batch in batches)
    padded = sum(int(lengths[list(batch)].max()) * len(batch) for batch in batches)
    return real / padded if padded else 1.0
