"""Audio segments: inspect the file's header, decode at the file's rate, resample."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from features.audio import mpeg
from features.audio.audio_file import AudioFile, Header, mix_channels
from features.audio.container import CONTAINERS, SAMPLE_BYTES, declared_frames, find_truncation
from features.audio.decoded_copies import COPIES
from features.audio.resampling import SAMPLE_RATE, Samples, resample, resampled_length
from features.audio.second_stream import find_second_stream
from features.errors import InputError
from features.regular_files import other_form

Channel = int | Literal["mix"]
END_TOLERANCE_S = 0.05
"""An `end` up to this much past the end of the file is clipped and counted; beyond it, the segment
is rejected."""
SEEKABLE_FORMATS = CONTAINERS - {"OGG", "MP3"}
SEEKABLE_SUBTYPES = SAMPLE_BYTES.keys()
"""For these formats and encodings, seeking gives exactly the samples that decoding from the start
gives."""
MIN_RATE, MAX_RATE = 1_000, 768_000
"""Hz; a rate outside this range means a damaged header."""
SYSTEM_ERROR, NOT_FOUND = "system_error", "not_found"
"""Rejection reasons that say nothing about the content of a file."""
LIBSNDFILE_SYSTEM_ERROR = 2
"""libsndfile's error code for a failed system call."""
UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's number of samples for a FLAC stream whose header does not say it."""


class AudioError(InputError):
    """Audio that cannot be used.

    `reason` is a short word for rejected.jsonl; the message has the details.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SegmentInfo:
    """A segment in samples of its file."""

    file_rate: int
    """Hz."""
    first: int
    last: int
    """Exclusive."""
    end_clipped: bool
    """Whether `end` was slightly after the end of the file, and was moved there."""
    num_samples: int
    """Number of samples after resampling."""
    num_channels: int
    """Channels of the file."""


def inspect_segment(
    path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = SAMPLE_RATE
) -> SegmentInfo:
    """Convert times (seconds) to a segment in samples, from the file's header alone.

    AudioError if the file cannot be read, the channel does not exist, the segment has no samples or
    ends more than 0.05 s past the file, or if it reaches the end of a file that is truncated, has
    a second stream of audio, or does not declare its length.
    """
    with _open(path) as file:
        return _segment(path, file, start, end, channel, sample_rate)


def read_segment(
    path: Path, start: float, end: float | None, channel: Channel, sample_rate: int = SAMPLE_RATE
) -> Samples:
    """Read a segment as float32 (S,) in [-1, 1] at `sample_rate`: decode, then resample."""
    samples, rate = decode_segment(path, start, end, channel)
    return resample(samples, rate, sample_rate)


def decode_segment(path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, int]:
    """Decode a segment as float32 (S,) in [-1, 1] at the file's own rate; return it with that rate.

    One channel is selected, or all are averaged ("mix"). AudioError as for `inspect_segment`, and
    if the file has fewer samples than its header says, if the samples do not fit into memory, or if
    any sample of the segment is not finite.
    """
    frames, info = decode_channels(path, start, end, channel)
    return select_channel(path, frames, channel, info.first), info.file_rate


def decode_channels(path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, SegmentInfo]:
    """Decode all channels of a segment as float32 (S, channels) in [-1, 1], at the file's own rate.

    AudioError as for `decode_segment`, but the samples may be NaN or infinite.
    """
    with _explained(path):
        found = COPIES.find(path)
        if found is not None:
            header, name = found
            info = _segment(path, header, start, end, channel, header.samplerate)
            copied = COPIES.read(name, header, info.first, info.last)
            if copied is not None:
                return copied, info
    with _open(path) as file:
        info = _segment(path, file, start, end, channel, file.samplerate)
        if _can_seek(file):
            count = file.seek(info.first)
        else:
            copied = COPIES.copy_and_read(path, file.header, info.first, info.last)
            if copied is not None:
                return copied, info
            count = sum(map(len, file.blocks_of(info.first)))  # where seeking is not exact
        if count == info.first:
            decoded = file.read(info.last - info.first, dtype="float32", always_2d=True)
            count += len(decoded)
        if count != info.last:
            raise AudioError("truncated", f"{path} must have the {info.last} samples its header says, found {count}")
    return decoded, info


def decode_blocks(path: Path, block_s: float | None = None) -> Iterator[Samples]:
    """Decode a file from its start in blocks of all channels, float32 (S, channels), at its own rate.

    AudioError if it cannot be decoded.
    """
    with _open(path) as file:
        yield from file.blocks_of(file.frames, block_s)


def can_seek(path: Path) -> bool:
    """Tell whether segments of a file can be decoded without the samples before them."""
    with _open(path) as file:
        return _can_seek(file)


def _can_seek(file: soundfile.SoundFile) -> bool:
    return file.format in SEEKABLE_FORMATS and file.subtype in SEEKABLE_SUBTYPES


def select_channel(path: Path, frames: Samples, channel: Channel, first: int) -> Samples:
    """Return one channel of decoded frames (S, channels), or the mean of all ("mix"), (S,).

    `first` is the index of the first frame in its file, for the message. AudioError for samples
    that are not finite, or for means that do not fit into memory.
    """
    try:
        samples = frames[:, channel] if isinstance(channel, int) else mix_channels(frames)
    except MemoryError as error:
        raise _no_memory(path, error) from error
    if not np.isfinite(samples).all():
        index = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError("non_finite", f"{path}: samples must be finite, found {samples[index]} at {first + index}")
    return np.ascontiguousarray(samples)


def _no_memory(path: Path, error: MemoryError) -> AudioError:
    """Return the error of samples that do not fit into memory."""
    return AudioError("out_of_memory", f"{path}: the samples must fit into memory, found: {error}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into AudioError, except for too many open files."""
    try:
        yield
    except MemoryError as error:
        raise _no_memory(path, error) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _explain(path, error) from error


@contextmanager
def _open(path: Path) -> Iterator[AudioFile]:
    """Open an audio file; errors until it is closed are those of `_explained`."""
    with _explained(path):
        if not path.exists():
            raise AudioError(NOT_FOUND, f"{path} must be an audio file, but it does not exist{other_form(path)}")
        if not path.is_file():
            raise AudioError(NOT_FOUND, f"{path} must be an audio file, but it is a folder, a pipe or a device")
        with AudioFile(path) as file:
            if file.format not in CONTAINERS:
                known = ", ".join(sorted(CONTAINERS))
                raise AudioError(
                    "format", f"{path}: the format must be one of {known}, found {file.format}; convert the file"
                )
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise AudioError(
                    "sample_rate", f"{path}: the rate must be {MIN_RATE}..{MAX_RATE} Hz, found {file.samplerate}"
                )
            yield file


def _explain(path: Path, error: Exception) -> InputError:
    """Turn an error while reading into one that says whether the file or the system is at fault."""
    if not _is_system_error(error):
        return AudioError("unreadable", f"{path} must be audio that libsndfile can decode, found: {error}")
    cause = error if isinstance(error, OSError) else _open_error(path) or error
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        return InputError(
            f"{path}: too many files are open ({cause}): raise the limit of open files "
            "(`ulimit -n`) and run the same command again; no utterance is rejected because of this"
        )
    return AudioError(
        SYSTEM_ERROR,
        f"{path} cannot be read now, found: {cause}. This says nothing about its content: run the command again",
    )


def _is_system_error(error: Exception) -> bool:
    """Tell whether an error comes from the disk, the network or a system limit.

    Other errors come from the content of the file.
    """
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, soundfile.LibsndfileError) and error.code == LIBSNDFILE_SYSTEM_ERROR


def _open_error(path: Path) -> OSError | None:
    """Return the error of opening a file, which libsndfile does not report; None if it can be opened."""
    try:
        path.open("rb").close()
    except OSError as error:
        return error
    return None


def _segment(
    path: Path, file: AudioFile | Header, start: float, end: float | None, channel: Channel, sample_rate: int
) -> SegmentInfo:
    """Convert times (seconds) to a segment of a file; AudioError as for `inspect_segment`."""
    rate, frames = file.samplerate, file.frames
    declared = declared_frames(path, file.format, file.subtype, file.channels)
    if declared is not None and declared < frames:  # bytes after the audio are no samples
        frames = declared
    if isinstance(channel, int) and channel >= file.channels:
        raise AudioError("no_channel", f"{path}: channel must be less than {file.channels}, found {channel}")
    seconds = frames / rate
    if end is None or end > seconds:
        _check_length(path, file)
    if end is not None and end > seconds + END_TOLERANCE_S:
        raise AudioError("end_past_file", f"{path}: end must be at most the file's {seconds:.3f} s, found {end}")
    if start > seconds:
        raise AudioError("no_samples", f"{path}: start must be less than the file's {seconds:.3f} s, found {start}")
    first = round(start * rate)
    last = frames if end is None else round(end * rate)
    # less than one sample is a rounding error
    clipped = end is not None and round(end * rate - frames, 6) >= 1
    last = min(last, frames)
    if last <= first:
        raise AudioError("no_samples", f"{path}: a segment must have samples, found {first} to {last} of {frames}")
    num_samples = resampled_length(last - first, rate, sample_rate)
    return SegmentInfo(rate, first, last, clipped, num_samples, file.channels)


def _check_length(path: Path, file: AudioFile | Header) -> None:
    """Raise AudioError unless the file ends where its header says, with its only stream of audio.

    Otherwise a segment up to the end of the file would silently be shorter.
    """
    if file.frames == UNKNOWN_FRAMES:
        raise AudioError(
            "unknown_length", f"{path}: the header must say how many samples there are, found 0; encode the file again"
        )
    is_mp3 = file.format == "MP3"
    missing = mpeg.find_truncation(path, file.frames) if is_mp3 else find_truncation(path, file.format)
    if missing is not None:
        raise AudioError("truncated", f"{path} must hold all of its audio: {missing}")
    second = find_second_stream(path, file.format)
    if second is not None:
        raise AudioError("second_stream", f"{path} must be one stream of audio, found two: {second}; write it as one")
    # the header of FLAC declares samples, not bytes
    if isinstance(file, AudioFile) and file.format == "FLAC" and file.frames and not _has_last_sample(file):
        raise AudioError("truncated", f"{path} must have the {file.frames} samples its header says, found fewer")


def _has_last_sample(file: soundfile.SoundFile) -> bool:
    """Tell whether the last sample that the header declares can be decoded."""
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except RuntimeError as error:
        if _is_system_error(error):
            raise
        return False
