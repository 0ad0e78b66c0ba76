"""Augmentation: modality dropout, time masks on features, and SpecAugment on waveforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from features.ragged import Ragged, to_device
from features.random_streams import Purpose, generator
from mervn.config import TrainingOptions
from mervn.data.streams import modality_of

FFT_STEP = 1600
"""The length of a Fourier transform is a multiple of this number of samples: prime lengths are slow."""
MASKS = 2
"""Number of time spans and of frequency bands that a `SpecMask` sets to zero, as in policies LD and SM of the paper."""


def augment(
    streams: Mapping[str, Ragged], options: TrainingOptions, seed: tuple[int, ...], of: int, places: Sequence[int]
) -> dict[str, Ragged]:
    """Drop the text or audio of some utterances of a batch, and set spans of audio frames to zero.

    The utterances are those at `places` of a batch of `of` utterances, which several processes may divide: the result
    for each is a pure function of its frames, its place, the options and `seed`. If both modalities of an utterance
    are drawn, one of them is kept, each with probability 1/2. An audio span is a fraction of the utterance's frames,
    uniform in [0, time_mask], at a uniform position (Park et al. 2019, arXiv 1904.08779, section 2, on features
    instead of mels).
    """
    found = dict(streams)
    if not (options.drop_text or options.drop_audio or options.time_mask):
        return found
    rng = generator(Purpose.AUGMENTATION, *seed)
    draws = {"text": rng.random(of) < options.drop_text, "audio": rng.random(of) < options.drop_audio}
    text_first = rng.random(of) < 0.5
    both = draws["text"] & draws["audio"]
    draws["text"] &= ~both | text_first
    draws["audio"] &= ~both | ~text_first
    spans = (rng.random(of) * options.time_mask)[places], rng.random(of)[places]
    for name, stream in streams.items():
        drawn = draws[modality_of(name)][places]
        if modality_of(name) == "audio" and options.time_mask:
            found[name] = _zero_spans(stream, *spans)
        if drawn.any():
            found[name] = _empty(found[name], drawn)
    return found


def _empty(stream: Ragged, drawn: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Ragged:
    """Return the stream without the frames of the utterances drawn."""
    kept = [sequence[:0] if gone else sequence for sequence, gone in zip(stream.split(), drawn.tolist(), strict=True)]
    return Ragged.from_sequences(kept)


def _zero_spans(stream: Ragged, shares: np.ndarray[tuple[int], np.dtype[np.float64]],
                places: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ragged:  # fmt: skip
    """Return the stream with a span of frames of each utterance set to zero."""
    kept = torch.ones(stream.total, dtype=stream.values.dtype)
    start = 0
    for size, share, place in zip(stream.sizes, shares.tolist(), places.tolist(), strict=True):
        span = int(share * size)
        first = start + int(place * (size - span + 1))
        kept[first : first + span] = 0
        start += size
    shape = (-1,) + (1,) * (stream.values.ndim - 1)
    return stream.replace(stream.values * to_device(kept, stream.values.device).view(shape))


@dataclass(frozen=True)
class SpecAugment:
    """Maximum sizes of the masks that fine-tuning puts on waveforms: see `SpecMask`; 0: none."""

    time: float = 0.0
    frequency: float = 0.0

    def masks(self, seeds: Sequence[tuple[int, ...]]) -> list[SpecMask]:
        """Return one mask per seed, or none at all if both sizes are 0."""
        if not (self.time or self.frequency):
            return []
        return [SpecMask(self.time, self.frequency, seed) for seed in seeds]


NO_MASKS = SpecAugment()


@dataclass(frozen=True)
class SpecMask:
    """SpecAugment of one waveform: zero spans of time and bands of the mel scale (Park et al. 2019, section 2).

    It is applied to the waveform, so that it works with any encoder, whatever its own front end is: a span of samples
    is set to zero, and a band is removed from the utterance's Fourier transform.
    """

    time: float
    """Maximum fraction of the utterance that one span covers; the fraction and the position are uniform."""
    frequency: float
    """Maximum fraction of the mel scale, from 0 to half the sample rate, that one band covers."""
    seed: tuple[int, ...]

    def apply(self, wave: np.ndarray[Any, np.dtype[np.float32]], rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a waveform (S,) masked; a pure function of it and of this mask."""
        rng = generator(Purpose.SPEC_MASK, *self.seed)
        widths, places = rng.random((2, MASKS)) * [[self.time], [self.frequency]], rng.random((2, MASKS))
        found = np.array(wave)
        if self.frequency:
            size = -(-len(wave) // FFT_STEP) * FFT_STEP
            spectrum = np.fft.rfft(found, size)
            mels = np.log1p(np.fft.rfftfreq(size, 1 / rate) / 700) / np.log1p(rate / 2 / 700)
            for width, place in zip(widths[1], places[1], strict=True):
                first = place * (1 - width)
                spectrum[(mels >= first) & (mels < first + width)] = 0
            found = np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)
        for width, place in zip(widths[0], places[0], strict=True):
            span = int(width * len(wave))
            first = int(place * (len(wave) - span + 1))
            found[first : first + span] = 0
        return found
