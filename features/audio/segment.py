"""Audio segments: inspected from the header, decoded at the file's rate, resampled to the encoder's."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from features.audio.container import CONTAINERS, find_truncation
from features.audio.resampling import Samples, resample, resampled_length
from features.errors import InputError

Channel = int | Literal["mix"]
END_TOLERANCE_S = 0.05
"""An `end` up to this far past the file is cut, and counted; further is rejected."""
SEEKABLE_FORMATS = CONTAINERS - {"OGG", "MP3"}
SEEKABLE_SUBTYPES = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
"""Where format and encoding are of these, seeking gives exactly the samples of decoding from the start."""
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Hz; what lies outside is a damaged header."""
MP3_SAMPLES_PER_BYTE = 32
"""More than any MP3 has: at most 24, of 8 kbit/s at 24 kHz."""
SYSTEM_ERROR, NOT_FOUND = "system_error", "not_found"
"""Reasons that say nothing about the content of a file."""
LIBSNDFILE_SYSTEM_ERROR = 2
"""The code of libsndfile's error for whatever the system refused."""
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile says of a FLAC stream whose header has no number of samples."""


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


def inspect_segment(
    path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = 16_000
) -> SegmentInfo:
    """Return the segment that times (seconds) mean, from the file's header alone.

    AudioError where the file cannot be read, the channel does not exist, the segment has no samples or ends more than
    0.05 s past the file, or where it reaches the end of a file that is truncated or does not say how long it is.
    """
    with _open(path) as file:
        return _segment(path, file, start, end, channel, sample_rate)


def read_segment(path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = 16_000) -> Samples:
    """Return a segment as float32 (S,) in [-1, 1] at `sample_rate`: crop, channel or mean, then resample."""
    samples, rate = decode_segment(path, start, end, channel)
    return resample(samples, rate, sample_rate)


def decode_segment(path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, int]:
    """Return a segment as float32 (S,) in [-1, 1] at the file's own rate, and that rate.

    Raises AudioError as `inspect_segment` does, and if the file holds fewer samples than its header says, if they do
    not fit into memory, or if any sample of the segment is not finite.
    """
    with _open(path) as file:
        info = _segment(path, file, start, end, channel, file.samplerate)
        wanted = info.last - info.first
        skipped = 0
        if file.format in SEEKABLE_FORMATS and file.subtype in SEEKABLE_SUBTYPES:
            file.seek(info.first)
        else:
            skipped = info.first
        frames = file.read(skipped + wanted, dtype="float32", always_2d=True)[skipped:]  # (S, channels)
        if frames.shape[0] != wanted:
            found = f"found {info.first + len(frames)}"
            raise AudioError("truncated", f"{path} must hold the {info.last} samples its header says, {found}")
        samples = frames[:, channel] if isinstance(channel, int) else frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        bad = int(info.first + np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError("non_finite", f"{path}: samples must be finite, found {samples[bad - info.first]} at {bad}")
    return np.ascontiguousarray(samples), info.file_rate


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file; whatever goes wrong in it until it is closed is an AudioError, but for too many open files."""
    try:
        if not path.is_file():
            raise AudioError(NOT_FOUND, f"{path} must be an audio file; there is no such file")
        with soundfile.SoundFile(path) as file:
            if file.format not in CONTAINERS:
                known = ", ".join(sorted(CONTAINERS))
                raise AudioError(
                    "format", f"{path}: the format must be one of {known}, found {file.format}: convert it"
                )
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise AudioError(
                    "sample_rate", f"{path}: the rate must be {MIN_RATE} to {MAX_RATE} Hz, found {file.samplerate}"
                )
            yield file
    except MemoryError as error:
        raise AudioError("out_of_memory", f"{path}: its samples must fit into memory, found: {error}") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> InputError:
    """Return what an error while reading a file means: it cannot be decoded, or the system is in trouble."""
    if not _is_of_system(error):
        return AudioError("unreadable", f"{path} must be audio that libsndfile can decode, found: {error}")
    why = error if isinstance(error, OSError) else _why_unreadable(path) or error
    if isinstance(why, OSError) and why.errno in (errno.EMFILE, errno.ENFILE):
        return InputError(
            f"{path}: too many files are open ({why}): raise the limit of open files (`ulimit -n`) and run the same "
            "command again; nothing is rejected for it"
        )
    return AudioError(
        SYSTEM_ERROR,
        f"{path} cannot be read now, found: {why}. This says nothing about its content: run the command again",
    )


def _is_of_system(error: Exception) -> bool:
    """Tell whether an error comes from the disk, the network or the system's limits, not from a file's content."""
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, soundfile.LibsndfileError) and error.code == LIBSNDFILE_SYSTEM_ERROR


def _why_unreadable(path: Path) -> OSError | None:
    """Return why the system does not open a file, which libsndfile does not say; None if it does."""
    try:
        path.open("rb").close()
    except OSError as error:
        return error
    return None


def _segment(
    path: Path, file: soundfile.SoundFile, start: float, end: float | None, channel: Channel, sample_rate: int
) -> SegmentInfo:
    rate, frames = file.samplerate, file.frames
    if isinstance(channel, int) and channel >= file.channels:
        raise AudioError("no_channel", f"{path}: channel must be less than {file.channels}, found {channel}")
    seconds = frames / rate
    if end is None or end > seconds:
        _check_length(path, file)
    if end is not None and end > seconds + END_TOLERANCE_S:
        raise AudioError("end_past_file", f"{path}: end must be at most the file's {seconds:.3f} s, found {end}")
    if start > seconds:
        raise AudioError("no_samples", f"{path}: start must be before the file's end at {seconds:.3f} s, found {start}")
    first = round(start * rate)
    last = frames if end is None else round(end * rate)
    clipped = end is not None and round(end * rate - frames, 6) >= 1  # less than a sample is rounding
    last = min(last, frames)
    if last <= first:
        raise AudioError("no_samples", f"{path}: a segment must have samples, found {first} to {last} of {frames}")
    return SegmentInfo(rate, first, last, clipped, resampled_length(last - first, rate, sample_rate))


def _check_length(path: Path, file: soundfile.SoundFile) -> None:
    """Raise AudioError if the file's end is not where its header says: a segment up to the end would be another."""
    if file.frames == UNKNOWN_FRAMES:
        raise AudioError(
            "unknown_length", f"{path}: its header must say how many samples it holds, found 0: encode it again"
        )
    lacking = find_truncation(path, file.format)
    if file.format == "MP3" and file.frames > MP3_SAMPLES_PER_BYTE * path.stat().st_size:
        lacking = f"the header says {file.frames} samples, too many for its bytes"
    if lacking is not None:
        raise AudioError("truncated", f"{path} must hold all of its audio: {lacking}")
    if file.frames and file.format == "FLAC":
        try:
            file.seek(file.frames - 1)
            found = len(file.read(1))
        except RuntimeError as error:
            if _is_of_system(error):
                raise
            found = 0
        if not found:
            raise AudioError("truncated", f"{path} must hold the {file.frames} samples its header says, found fewer")
