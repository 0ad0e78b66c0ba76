"""Augmentation: modality dropout, time masks on features, and SpecAugment on waveforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from features.device import to_device
from features.ragged import Ragged
from features.random_streams import Purpose, generator
from mervn.config import TrainingOptions
from mervn.data.streams import modality_of

FFT_STEP = 1600
"""The length of a Fourier transform, in samples, is a multiple of this: primes are slow."""
MASKS = 2
"""Number of time spans, and of frequency bands, that one `SpecMask` sets to zero.

As in the policies LD and SM of SpecAugment (Park et al. 2019)."""

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Waveform = np.ndarray[Any, np.dtype[np.float32]]


def augment(
    streams: Mapping[str, Ragged], options: TrainingOptions, seed: tuple[int, ...], of: int, places: Sequence[int]
) -> dict[str, Ragged]:
    """Drop the text or audio of random utterances of a batch, and zero spans of audio frames.

    `streams` holds the utterances at `places` of a batch of `of` utterances, because several
    processes may divide a batch. The result for an utterance is a pure function of its frames, its
    place, the options and `seed`. If both modalities of an utterance are drawn, only one is
    dropped, either with probability 1/2. The length of an audio span, as a fraction of the
    utterance's frames, is uniform in [0, time_mask]; its position is uniform in the utterance (Park
    et al. 2019, arXiv 1904.08779, section 2, on features instead of mels).
    """
    augmented = dict(streams)
    if not (options.drop_text or options.drop_audio or options.time_mask):
        return augmented
    rng = generator(Purpose.AUGMENTATION, *seed)
    # Draw for the whole batch: an utterance gets the same numbers in whichever process it is.
    dropped = {
        "text": rng.random(of) < options.drop_text,  # (of,) bool
        "audio": rng.random(of) < options.drop_audio,
    }
    drop_text_only = rng.random(of) < 0.5
    both = dropped["text"] & dropped["audio"]
    dropped["text"] &= ~both | drop_text_only
    dropped["audio"] &= ~both | ~drop_text_only
    fractions = (rng.random(of) * options.time_mask)[places]
    positions = rng.random(of)[places]
    for name, stream in streams.items():
        dropped_here = dropped[modality_of(name)][places]
        if modality_of(name) == "audio" and options.time_mask:
            augmented[name] = _zero_spans(stream, fractions, positions)
        if dropped_here.any():
            augmented[name] = _empty(augmented[name], dropped_here)
    return augmented


def _empty(stream: Ragged, dropped: Bools) -> Ragged:
    """Return the stream with no frames for the dropped utterances."""
    sequences = []
    for sequence, is_dropped in zip(stream.split(), dropped.tolist(), strict=True):
        sequences.append(sequence[:0] if is_dropped else sequence)
    return Ragged.from_sequences(sequences)


def _zero_spans(stream: Ragged, fractions: Floats, positions: Floats) -> Ragged:
    """Return the stream with one span of frames of each utterance set to zero.

    `fractions` (B,) are the lengths of the spans relative to the utterance; `positions` (B,) in
    [0, 1) place them within it.
    """
    kept = torch.ones(stream.total, dtype=stream.values.dtype)
    start = 0
    for size, fraction, position in zip(stream.sizes, fractions.tolist(), positions.tolist(), strict=True):
        span = int(fraction * size)
        first = start + int(position * (size - span + 1))
        kept[first : first + span] = 0
        start += size
    shape = (-1,) + (1,) * (stream.values.ndim - 1)  # broadcast over layers and width
    return stream.replace(stream.values * to_device(kept, stream.values.device).view(shape))


@dataclass(frozen=True)
class SpecAugment:
    """Maximum sizes of the masks that fine-tuning applies to waveforms: see `SpecMask`.

    0 disables a kind of mask.
    """

    time: float = 0.0
    frequency: float = 0.0

    def masks(self, seeds: Sequence[tuple[int, ...]]) -> Sequence[SpecMask]:
        """Return one mask per seed, or an empty tuple if both sizes are 0."""
        if not (self.time or self.frequency):
            return ()
        return [SpecMask(self.time, self.frequency, seed) for seed in seeds]


NO_MASKS = SpecAugment()


@dataclass(frozen=True)
class SpecMask:
    """SpecAugment of one waveform: zero spans of time and bands of the mel scale.

    Park et al. 2019, section 2. The mask applies to the waveform instead of a spectrogram, so that
    it works with the front end of any encoder: a span of samples is set to zero, and a band is
    removed from the utterance's Fourier transform.
    """

    time: float
    """Maximum fraction of the utterance that one span covers.

    Fractions and positions, also those of bands, are drawn uniformly."""
    frequency: float
    """Maximum fraction of the mel scale, from 0 to half the sample rate, that one band covers."""
    seed: tuple[int, ...]

    def apply(self, wave: Waveform, rate: int) -> Waveform:
        """Return the masked waveform (S,), a pure function of the waveform and this mask.

        `rate` is the sample rate in Hz.
        """
        rng = generator(Purpose.SPEC_MASK, *self.seed)
        # (2, MASKS): fractions of time, then of the mel scale.
        widths = rng.random((2, MASKS)) * [[self.time], [self.frequency]]
        positions = rng.random((2, MASKS))
        masked = np.array(wave)
        if self.frequency:
            size = -(-len(wave) // FFT_STEP) * FFT_STEP  # round up to a multiple of FFT_STEP
            spectrum = np.fft.rfft(masked, size)
            # Mel of each bin, as a fraction of the mel of half the sample rate.
            mels = np.log1p(np.fft.rfftfreq(size, 1 / rate) / 700) / np.log1p(rate / 2 / 700)
            for width, position in zip(widths[1], positions[1], strict=True):
                first = position * (1 - width)
                spectrum[(mels >= first) & (mels < first + width)] = 0
            masked = np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)
        for width, position in zip(widths[0], positions[0], strict=True):
            span = int(width * len(wave))
            first = int(position * (len(wave) - span + 1))
            masked[first : first + span] = 0
        return masked
