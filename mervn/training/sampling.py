"""Which utterances make a batch in which epoch: a pure function of (seed, epoch)."""

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
"""Standard deviation, in batches, of the noise on an utterance's rank by length: half of its company is new every
epoch, and padding hardly grows however large the corpus."""
WINDOW = 8
"""Batches of like l_mix within which utterances are ranked by the rows of the longest stream, the most of padding."""


@dataclass(frozen=True)
class Cutting:
    """How an epoch is cut into batches: so many utterances, or as many as a budget of padded rows holds."""

    rows: Array
    """(S, N) int64: the rows of each stream of each utterance."""
    batch_size: int | None = None
    frame_budget: int | None = None
    """Of a batch, over the streams: the sum of greatest length times utterances. A longer utterance is a batch."""

    @property
    def usual_size(self) -> float:
        """Utterances of a batch, about."""
        if self.batch_size is not None:
            return self.batch_size
        return max(1.0, (self.frame_budget or 1) / max(1.0, float(self.rows.sum(0).mean())))

    @property
    def longest(self) -> Array:
        """(N,) the rows of the stream that has most of them."""
        longest: Array = self.rows[self.rows.sum(1).argmax()]
        return longest

    def cut(self, order: Array) -> list[list[int]]:
        """Return the batches of an order (N,) of utterances."""
        if self.batch_size is not None:
            return [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        batches: list[list[int]] = []
        greatest: list[int] = []
        for index, rows in zip(order.tolist(), self.rows[:, order].T.tolist(), strict=True):
            wider = [max(pair) for pair in zip(greatest, rows, strict=True)] if batches else rows
            if batches and sum(wider) * (len(batches[-1]) + 1) <= (self.frame_budget or 0):
                batches[-1].append(index)
                greatest = wider
            else:
                batches.append([index])
                greatest = rows
        return batches


def mixed_lengths(audio_seconds: Array, syllables: Array, alpha: float) -> Array:
    """Return l_mix = audio seconds + alpha * white-space syllables, (N,)."""
    return audio_seconds + alpha * syllables


def sampling_weights(targets: Array, lengths: Array, beta: float) -> Array:
    """Return a weight an utterance (N,): w_c = 1 / (f_c r_c^beta) of its class c.

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
    sampling: str, lengths: Array, weights: Array, cutting: Cutting, seed: int, epoch: int
) -> list[list[int]]:
    """Return the batches of one epoch as indices into the N utterances.

    `random` and `bucket` hold every utterance exactly once; `weighted` and `both` hold N draws with replacement by
    `weights`. `bucket` and `both` put utterances of like l_mix, and within those of like rows, together. Batches and
    their order change every epoch.
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
        return cutting.cut(drawn)
    ranked = drawn[np.argsort(lengths[drawn], kind="stable")]
    windows = np.arange(count) // max(1, round(WINDOW * cutting.usual_size))
    ranked = ranked[np.lexsort((cutting.longest[ranked], windows))]
    noise = generator.normal(0.0, RANK_JITTER * cutting.usual_size, count)
    batches = cutting.cut(ranked[np.argsort(np.arange(count) + noise, kind="stable")])
    return [batches[i] for i in generator.permutation(len(batches))]


def shares_of(batches: Sequence[Array], processes: int) -> list[list[list[int]]]:
    """Return the places (each ascending) that each process has of each batch of a step, given what utterances cost.

    `batches` are costs (B,). The dearest that is left of a batch goes to the process with the least so far in the step
    (Graham 1969): in a single batch none has more than 4/3 of what the best division would give it.
    """
    loads = [0.0] * processes
    found = []
    for costs in batches:
        shares: list[list[int]] = [[] for _ in range(processes)]
        for place in np.argsort(-costs, kind="stable").tolist():
            least = loads.index(min(loads))
            shares[least].append(place)
            loads[least] += float(costs[place])
        found.append([sorted(share) for share in shares])
    return found


def padding_efficiency(rows: Array, batches: Sequence[Sequence[int]]) -> float:
    """Return real over padded rows (N,) of one stream in these batches; 1 for a stream without rows."""
    real = sum(int(rows[list(batch)].sum()) for batch in batches)
    padded = sum(int(rows[list(batch)].max()) * len(batch) for batch in batches)
    return real / padded if padded else 1.0
