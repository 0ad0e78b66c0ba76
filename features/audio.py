"""Audio segments: inspected from the header, decoded at the file's rate, resampled to the encoder's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from features.errors import InputError

Samples = np.ndarray[Any, np.dtype[np.float32]]
Channel = int | Literal["mix"]
END_TOLERANCE_S = 0.05
"""An `end` up to this far past the file is cut, and counted; further is rejected."""
SEEKABLE_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "NIST"})
"""Formats in which seeking gives exactly the samples of decoding from the start; others are decoded whole."""


class AudioError(InputError):
    """Audio that cannot be used; `reason` is a short word for rejected.jsonl, the message says the rest."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SegmentInfo:
    """A segment in samples of its file, and how many samples it will have at the rate asked for."""

    file_rate: int
    first: int
    last: int
    """Exclusive."""
    end_clipped: bool
    num_samples: int


def resampled_length(length: int, old_rate: int, new_rate: int) -> int:
    """Return ceil(length * new / old), the length after resampling."""
    return -(-length * new_rate // old_rate)


def inspect_segment(
    path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = 16_000
) -> SegmentInfo:
    """Return the segment that times (seconds) mean, from the file's header alone.

    AudioError where the file cannot be read, the channel is not there, the segment has no samples or ends more than
    0.05 s past the file.
    """
    with _open(path) as file:
        return _segment(path, file, file.frames, start, end, channel, sample_rate)


def read_segment(path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = 16_000) -> Samples:
    """Return a segment as float32 (S,) in [-1, 1] at `sample_rate`: crop, channel or mean, then resample."""
    samples, rate = decode_segment(path, start, end, channel)
    return resample(samples, rate, sample_rate)


def decode_segment(path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, int]:
    """Return a segment as float32 (S,) in [-1, 1] at the file's own rate, and that rate.

    Raises AudioError as `inspect_segment` does, and where the file holds fewer samples than its header says or any
    sample of the segment is not finite.
    """
    with _open(path) as file:
        info = _segment(path, file, file.frames, start, end, channel, file.samplerate)
        wanted = info.last - info.first
        try:
            if file.format in SEEKABLE_FORMATS:
                file.seek(info.first)
                frames = file.read(wanted, dtype="float32", always_2d=True)
            else:
                frames = file.read(info.last, dtype="float32", always_2d=True)[info.first :]
        except (OSError, RuntimeError, soundfile.LibsndfileError) as error:
            raise AudioError("unreadable", f"{path} must be decodable audio, found: {error}") from error
    if frames.shape[0] != wanted:
        raise AudioError(
            "truncated", f"{path} must hold the {info.last} samples its header says, found {info.first + len(frames)}"
        )
    samples = frames[:, channel] if isinstance(channel, int) else frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        bad = int(info.first + np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError("non_finite", f"{path}: samples must be finite, found {samples[bad - info.first]} at {bad}")
    return np.ascontiguousarray(samples), info.file_rate


def resample(samples: Samples, old_rate: int, new_rate: int) -> Samples:
    """Resample float32 (S,) to ceil(S * new / old) samples by windowed-sinc interpolation (torchaudio's)."""
    if old_rate == new_rate:
        return samples
    import torch

    found: Samples = _resampler(old_rate, new_rate)(torch.from_numpy(samples)).numpy()
    return found


@lru_cache(maxsize=16)
def _resampler(old_rate: int, new_rate: int) -> Any:
    """Return torchaudio's resampling with its kernel made: making it takes several times as long as using it."""
    import torch

    from features.torchaudio_import import import_torchaudio

    import_torchaudio()
    from torchaudio.transforms import Resample

    return Resample(old_rate, new_rate, dtype=torch.float32)  # computed in it too, as functional.resample does


def _open(path: Path) -> soundfile.SoundFile:
    if not path.is_file():
        raise AudioError("not_found", f"{path} must be an audio file; there is no such file")
    try:
        return soundfile.SoundFile(path)
    except (OSError, RuntimeError, ValueError, TypeError, soundfile.LibsndfileError) as error:
        raise AudioError("unreadable", f"{path} must be an audio file that libsndfile reads, found: {error}") from error


def _segment(
    path: Path,
    file: soundfile.SoundFile,
    frames: int,
    start: float,
    end: float | None,
    channel: Channel,
    sample_rate: int,
) -> SegmentInfo:
    rate = file.samplerate
    if isinstance(channel, int) and channel >= file.channels:
        raise AudioError("no_channel", f"{path}: channel must be less than {file.channels}, found {channel}")
    seconds = frames / rate
    if end is not None and end > seconds + END_TOLERANCE_S:
        raise AudioError("end_past_file", f"{path}: end must be at most the file's {seconds:.3f} s, found {end}")
    if start > seconds:
        raise AudioError("no_samples", f"{path}: start must be before the file's end at {seconds:.3f} s, found {start}")
    first = round(start * rate)
    last = frames if end is None else round(end * rate)
    clipped = last > frames
    last = min(last, frames)
    if last <= first:
        raise AudioError("no_samples", f"{path}: a segment must have samples, found {first} to {last} of {frames}")
    return SegmentInfo(rate, first, last, clipped, resampled_length(last - first, rate, sample_rate))
