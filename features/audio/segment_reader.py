"""SegmentReader: many segments of long files, with bounded memory and without decoding twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from features.audio.resampling import SAMPLE_RATE, Samples, resample
from features.audio.segment import (
    AudioError,
    Channel,
    SegmentInfo,
    can_seek,
    decode_blocks,
    decode_channels,
    inspect_segment,
    select_channel,
)
from features.memory import is_out_of_memory


class SegmentReader:
    """Reads segments as `read_segment` does, sample for sample.

    A file in which seeking is not exact, such as MP3, is decoded once as long as its segments are
    read in the order of their starts; memory holds the last segment and one block. Segments in
    another order are read as `read_segment` does.
    """

    def __init__(self) -> None:
        self._seekable: tuple[Path, bool] | None = None
        self._path: Path | None = None
        """The file that is being decoded in blocks."""
        self._blocks: Iterator[Samples] = iter(())
        self._frames: Samples = np.zeros((0, 1), np.float32)
        """(S, channels): the frames from `_first` on that are kept."""
        self._first = 0
        self._begun: set[Path] = set()
        """Files that were decoded in blocks."""

    def read(self, path: Path, start: float, end: float | None, channel: Channel) -> Samples:
        """Read a segment as float32 (S,) in [-1, 1] at 16 kHz.

        AudioError if it cannot be decoded, or does not fit into memory.
        """
        try:
            frames, info = self.read_channels(path, start, end, channel)
            samples = select_channel(path, frames, channel, info.first)
            return resample(samples, info.file_rate, SAMPLE_RATE)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # raised outside the except block: its traceback would keep the samples in memory
        raise _no_memory(path)

    def read_channels(
        self, path: Path, start: float, end: float | None, channel: Channel
    ) -> tuple[Samples, SegmentInfo]:
        """Decode all channels of a segment as float32 (S, channels) in [-1, 1], at the file's own rate.

        Raises AudioError as `decode_channels` does: the samples may be NaN or infinite.
        """
        if (start == 0 and end is None) or self._can_seek(path):
            return decode_channels(path, start, end, channel)
        with suppress(MemoryError):
            return self._decode(path, start, end, channel)
        raise _no_memory(path)

    def _can_seek(self, path: Path) -> bool:
        """Tell whether a file can seek; the answer for the last file is kept."""
        if self._seekable is None or self._seekable[0] != path:
            self._seekable = (path, can_seek(path))
        return self._seekable[1]

    def _decode(self, path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, SegmentInfo]:
        """Decode a segment (S, channels) of a file that cannot seek, in blocks from where the last one was."""
        info = inspect_segment(path, start, end, channel)
        if path != self._path or info.first < self._first:
            if path in self._begun:
                return decode_channels(path, start, end, channel)
            self._begun.add(path)
            self._blocks, self._first = decode_blocks(path), 0
            self._frames = np.zeros((0, info.num_channels), np.float32)
        self._path = None  # an error below must not leave a wrong position
        kept = [self._frames[info.first - self._first :]]
        position = self._first + len(self._frames)  # index of the next frame to decode
        self._first = max(info.first, self._first)
        while position < info.last:
            block = next(self._blocks, None)
            if block is None:
                raise AudioError(
                    "truncated", f"{path} must have the {info.last} samples its header says, found {position}"
                )
            if position + len(block) > info.first:  # an empty part would keep its whole block in memory
                kept.append(block[max(0, info.first - position) :])
            position += len(block)
        self._frames = np.concatenate(kept)
        self._path = path
        return self._frames[: info.last - info.first], info


def _no_memory(path: Path) -> AudioError:
    """Return the error of audio that does not fit into memory."""
    return AudioError("out_of_memory", f"{path}: the audio must fit into memory")
