"""SegmentReader: many segments of long files, with bounded memory and without decoding twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from features.audio.resampling import SAMPLE_RATE, Samples, resample
from features.audio.segment import (
    AudioError,
    Channel,
    can_seek,
    decode_blocks,
    decode_segment,
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
            if (start == 0 and end is None) or self._can_seek(path):
                samples, rate = decode_segment(path, start, end, channel)
            else:
                samples, rate = self._decode(path, start, end, channel)
            return resample(samples, rate, SAMPLE_RATE)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # raised outside the except block: its traceback would keep the samples in memory
        raise AudioError("out_of_memory", f"{path}: the audio must fit into memory")

    def _can_seek(self, path: Path) -> bool:
        """Tell whether a file can seek; the answer for the last file is kept."""
        if self._seekable is None or self._seekable[0] != path:
            self._seekable = (path, can_seek(path))
        return self._seekable[1]

    def _decode(self, path: Path, start: float, end: float | None, channel: Channel) -> tuple[Samples, int]:
        """Decode a segment (S,) of a file that cannot seek; return it with the rate of the file."""
        info = inspect_segment(path, start, end, channel)
        if path != self._path or info.first < self._first:
            if path in self._begun:
                return decode_segment(path, start, end, channel)
            self._begun.add(path)
            self._blocks, self._first = decode_blocks(path), 0
            self._frames = np.zeros((0, 1), np.float32)
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
            kept.append(block[max(0, info.first - position) :])
            position += len(block)
        self._frames = np.concatenate([part for part in kept if len(part)])
        self._path = path
        return select_channel(path, self._frames[: info.last - info.first], channel, info.first), info.file_rate
