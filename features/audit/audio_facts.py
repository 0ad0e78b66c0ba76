"""AudioFacts: duration, level, clipping, channels and content of one utterance's audio."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from features.audio.decoding import samples_sha256
from features.audio.segment import NOT_FOUND, SYSTEM_ERROR, AudioError, select_channel
from features.audio.segment_reader import SegmentReader
from features.manifests.manifest import Utterance

Array = np.ndarray[Any, Any]
FULL_SCALE = 0.9999
"""Samples from here on are at full scale: 16-bit audio ends at 0.99997."""
LOUD = 0.5
"""A plateau at a lower peak is not clipping: quiet or square waves have some too."""


class AudioFacts(NamedTuple):
    """Measurements of the audio of one utterance, at the rate of its file.

    A tuple, because thousands of them are read before each training.
    """

    seconds: float
    sample_rate: int
    """Hz; 0 if the audio cannot be used, and then all other numbers are 0 too."""
    num_channels: int
    """Channels of the file."""
    peak: float
    """Maximum absolute sample, full scale is 1."""
    rms: float
    clipped_fraction: float
    """Fraction of samples that are part of a plateau at the peak, or at and beyond full scale."""
    correlation: float | None
    """Minimum correlation of two channels that are averaged; None if there are no two of them, or
    if one of them is constant."""
    sha256: str
    """Hash of the decoded samples: `samples_sha256`."""
    end_clipped: bool
    """Whether `end` was up to 0.05 s after the end of the file."""
    problem: str | None
    """`AudioError.reason`; None if the audio can be used."""
    detail: str
    """Message of the error, with the path as in the manifest; empty if there is none."""

    @property
    def is_lasting(self) -> bool:
        """Tell whether the facts belong to the file, and not to a disk or network that failed once."""
        return self.problem not in (NOT_FOUND, SYSTEM_ERROR, "out_of_memory")


def measure_audio(utterance: Utterance, reader: SegmentReader) -> AudioFacts:
    """Decode the audio of an utterance and measure it.

    Audio that cannot be used gives facts with its `problem`. InputError if too many files are open.
    """
    path, channel = utterance.audio_path, utterance.channel
    try:
        frames, info = reader.read_channels(path, utterance.start, utterance.end, channel)
        samples = select_channel(path, frames, channel, info.first)
    except AudioError as error:
        return unusable(error.reason, utterance, str(error))
    low, high = float(samples.min()), float(samples.max())
    return AudioFacts(
        seconds=len(samples) / info.file_rate,
        sample_rate=info.file_rate,
        num_channels=frames.shape[1],
        peak=max(-low, high),
        rms=math.sqrt(float(np.dot(samples, samples)) / len(samples)),
        clipped_fraction=_clipped_fraction(frames if channel == "mix" else samples[:, None]),
        correlation=_correlation(frames) if channel == "mix" else None,
        sha256=samples_sha256(samples, info.file_rate),
        end_clipped=info.end_clipped,
        problem=None,
        detail="",
    )


def unusable(reason: str, utterance: Utterance, message: str) -> AudioFacts:
    """Return the facts of audio that cannot be used."""
    detail = message.replace(str(utterance.audio_path), utterance.wav_path)  # equal in every copy of the corpus
    return AudioFacts(0.0, 0, 0, 0.0, 0.0, 0.0, None, "", False, reason, detail)


def _clipped_fraction(frames: Array) -> float:
    """Return the fraction of samples (S, channels) in plateaus at the peak, the maximum over channels.

    A plateau is two or more samples in succession at the peak, or at and beyond full scale: lossy
    formats decode clipped audio to that. A sine wave has none at a high level.
    """
    worst = 0.0
    for samples in frames.T:
        low, high = float(samples.min()), float(samples.max())
        if max(-low, high) < LOUD:
            continue
        at_peak = samples >= min(high, FULL_SCALE) if high >= LOUD else np.zeros(len(samples), bool)
        if low <= -LOUD:
            at_peak = at_peak | (samples <= max(low, -FULL_SCALE))
        if np.count_nonzero(at_peak) > 1:
            worst = max(worst, float(np.count_nonzero(at_peak[1:] & at_peak[:-1])) / len(samples))
    return worst


def _correlation(frames: Array) -> float | None:
    """Return the minimum correlation of two channels of (S, channels); None if it is undefined."""
    if frames.shape[1] < 2 or len(frames) < 2:
        return None
    centred = frames - frames.mean(axis=0, dtype=np.float64)  # (S, channels)
    norms = np.sqrt((centred**2).sum(axis=0))
    if not (norms > 0).all():
        return None
    found = (centred.T @ centred) / np.outer(norms, norms)
    return float(found.min())
