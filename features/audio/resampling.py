"""Resampling by windowed-sinc interpolation, with bounded memory for any pair of rates."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

Samples = np.ndarray[Any, np.dtype[np.float32]]
SAMPLE_RATE = 16_000
"""Hz; the rate that all audio encoders read."""
ZEROS, ROLLOFF = 6, 0.99
"""Zero crossings of the sinc on each side, and the cutoff as a fraction of Nyquist: torchaudio's
defaults."""
MATRIX_ENTRIES = 1 << 21
"""Maximum size of torchaudio's kernel: old * new, the rates divided by their common divisor."""
CHUNK_ENTRIES = 1 << 21
"""Filter taps applied at once; bounds the memory of a step."""


def resampled_length(length: int, old_rate: int, new_rate: int) -> int:
    """Return ceil(length * new / old), the length after resampling."""
    return -(-length * new_rate // old_rate)


def resample(samples: Samples, old_rate: int, new_rate: int) -> Samples:
    """Resample float32 (S,) to ceil(S * new / old) samples by windowed-sinc interpolation.

    Rates with a large common divisor use torchaudio. For others its kernel would take gigabytes,
    most of it zeros: the same filters are then applied directly.
    """
    if old_rate == new_rate:
        return samples
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    if old * new > MATRIX_ENTRIES:
        return resample_directly(samples, old, new)
    import torch

    found: Samples = _resampler(old_rate, new_rate)(torch.from_numpy(samples)).numpy()
    return found


@lru_cache(maxsize=16)
def _resampler(old_rate: int, new_rate: int) -> Any:
    """Return torchaudio's resampling module.

    It is cached: to build its kernel takes several times as long as to use it.
    """
    import torch

    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from torchaudio.transforms import Resample

    # the kernel is computed in float32 too
    return Resample(old_rate, new_rate, dtype=torch.float32)


def resample_directly(samples: Samples, old: int, new: int) -> Samples:
    """Resample (S,) by `new` / `old`, two coprime numbers, with one filter per output sample.

    Output sample n is at position n * old / new of the input. Its filter is that of the phase
    (n * old) % new.
    """
    filters = _filters(old, new)  # (new, K)
    taps = filters.shape[1]
    padded = np.pad(samples, (taps // 2 - 1, taps // 2 + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    found = np.empty(resampled_length(len(samples), old, new), np.float32)
    step = max(1, CHUNK_ENTRIES // taps)
    for first in range(0, len(found), step):
        positions = np.arange(first, min(first + step, len(found)), dtype=np.int64) * old
        chosen = filters[positions % new]
        found[first : first + step] = np.einsum("nk,nk->n", windows[positions // new], chosen)
    return found


@lru_cache(maxsize=2)
def _filters(old: int, new: int) -> Samples:
    """Return the filters (new, K) of all phases: torchaudio's sinc times a squared cosine.

    They are computed in float64 and rounded to float32.
    """
    cutoff = min(old, new) * ROLLOFF
    half = math.ceil(ZEROS * old / cutoff) + 1
    filters = np.empty((new, 2 * half), np.float32)
    offsets = np.arange(1 - half, half + 1)
    step = max(1, CHUNK_ENTRIES // (2 * half))
    for first in range(0, new, step):
        phases = np.arange(first, min(first + step, new))[:, None] / new
        time = np.clip((offsets - phases) / old * cutoff, -ZEROS, ZEROS)
        window = np.cos(time * (math.pi / ZEROS / 2)) ** 2
        filters[first : first + step] = np.sinc(time) * window * (cutoff / old)
    return filters
