"""Which utterances make a batch in which epoch: a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SAMPLINGS = ("random", "bucket", "weighted", "both")
RANK_JITTER = 0.25
"""Standard deviation, in batches, of the noise on an utterance's rank by length: half of its company is new every
epoch, and padding hardly grows however large the corpus."""


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
    sampling: str, lengths: Array, weights: Array, batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return the batches of one epoch as indices into the N utterances.

    `random` and `bucket` hold every utterance exactly once; `weighted` and `both` hold N draws with replacement by
    `weights`. `bucket` and `both` put utterances of like l_mix together. Batches and their order change every epoch.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, found {sampling!r}")
    generator = np.random.default_rng((seed, epoch))
    count = len(lengths)
    if sampling in ("weighted", "both"):
        drawn = generator.choice(count, count, p=weights / weights.sum())
    else:
        drawn = generator.permutation(count)
    if sampling in ("random", "weighted"):
        return _chunks(drawn.tolist(), batch_size)
    ranked = drawn[np.argsort(lengths[drawn], kind="stable")]
    noise = generator.normal(0.0, RANK_JITTER * batch_size, count)
    batches = _chunks(ranked[np.argsort(np.arange(count) + noise, kind="stable")].tolist(), batch_size)
    return [batches[i] for i in generator.permutation(len(batches))]


def _chunks(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[i : i + size]) for i in range(0, len(indices), size)]
