"""Clips: audio, text or both, whose emotion is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.resampling import SAMPLE_RATE, Samples, resample
from features.audio.segment import MAX_RATE, MIN_RATE, AudioError, Channel, inspect_segment
from features.audio.segment_reader import SegmentReader
from features.errors import UsageError

MAX_PEAK = 10.0
"""Peak above which samples are on another scale; loud or resampled audio can exceed 1 by a little."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One input: a segment of a file or samples, a text, or both."""

    audio: Path | Samples | None = None
    """A file, or samples float32 (S,) in [-1, 1] at 16 kHz; None: no audio."""
    start: float = 0.0
    """Seconds in the file."""
    end: float | None = None
    """Seconds in the file; None: its end."""
    channel: Channel = "mix"
    text: str | None = None
    """The transcript; None or empty: no text."""
    file: str = ""
    """Name of the file in results; empty without a file."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further keys, such as utterance_id or speaker, which results keep."""

    def __post_init__(self) -> None:
        """Raise UsageError for a text that cannot be written as UTF-8."""
        surrogate = next((letter for letter in self.text or "" if "\ud800" <= letter <= "\udfff"), None)
        if surrogate is not None:
            place = f"{self.file}: " if self.file else ""
            raise UsageError(f"{place}the text must be valid Unicode, found a lone surrogate {surrogate!r}")

    def samples(self, reader: SegmentReader) -> Samples:
        """Return the samples (S,) at 16 kHz; none without audio. AudioError if they cannot be read."""
        if self.audio is None:
            return np.zeros(0, np.float32)
        if isinstance(self.audio, Path):
            return reader.read(self.audio, self.start, self.end, self.channel)
        return self.audio

    def seconds(self) -> float:
        """Return the duration from the header of the file; 0 without audio. AudioError if it cannot be read."""
        length, rate = self.measure()
        return length / rate

    def measure(self) -> tuple[int, int]:
        """Return the length in samples and the rate in Hz; AudioError if the header of the file cannot be read."""
        if isinstance(self.audio, Path):
            info = inspect_segment(self.audio, self.start, self.end, self.channel)
            return info.last - info.first, info.file_rate
        return 0 if self.audio is None else len(self.audio), SAMPLE_RATE


def from_array(audio: Any, sample_rate: int | None) -> Samples:
    """Return samples of a user as float32 (S,) at 16 kHz, resampled as files are.

    Floating-point samples must be in [-1, 1]; int16 and int32 are scaled to it, as in a file. Raises
    UsageError without a sample rate, for another shape or type, and AudioError for samples that are
    not finite.
    """
    try:
        samples = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, for example
        raise UsageError(f"audio must be an array that NumPy can read, found: {error}") from error
    if sample_rate is None:
        raise UsageError("sample_rate must be given with an array, because an array does not hold it")
    is_number = isinstance(sample_rate, Real)
    if not is_number or not MIN_RATE <= sample_rate <= MAX_RATE or sample_rate != int(sample_rate):
        raise UsageError(f"sample_rate must be a whole number in {MIN_RATE}..{MAX_RATE} Hz, found {sample_rate!r}")
    if samples.ndim != 1 or samples.size == 0:
        raise UsageError(f"audio must be a non-empty array (S,) of one channel, found shape {samples.shape}")
    if samples.dtype in (np.int16, np.int32):
        samples = samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1.0)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise UsageError(f"audio must be floating-point in [-1, 1], int16 or int32, found {samples.dtype}")
    with np.errstate(over="ignore"):  # infinite then, which is refused
        converted = np.ascontiguousarray(samples, np.float32)
    if not np.isfinite(converted).all():
        index = int(np.flatnonzero(~np.isfinite(converted))[0])
        raise AudioError("non_finite", f"samples must be finite, found {converted[index]} at {index}")
    peak = float(np.abs(converted).max())
    if peak > MAX_PEAK:
        raise UsageError(
            f"floating-point samples must be in [-1, 1], found a peak of {peak:g}; divide samples of 16 bits by 32768"
        )
    return resample(converted, int(sample_rate), SAMPLE_RATE)
