"""AudioFile: an audio file that is decoded from its start, without seeking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from features.audio.mpeg import LongFile, count_frames
from features.audio.resampling import Samples

BLOCK_S = 10.0
"""Seconds that `blocks_of` decodes at once by default."""
PAIRWISE = 8
"""Number of values from which on NumPy sums in another order than one after the other."""


@dataclass(frozen=True)
class Header:
    """The header of an audio file, by the names of soundfile."""

    format: str
    subtype: str
    samplerate: int
    channels: int
    frames: int


class AudioFile(soundfile.SoundFile):  # type: ignore[misc]
    """An open audio file whose `read` continues exactly where the last one ended.

    After each read, SoundFile seeks to the end of what it has read. In MP3 and Ogg, a seek restarts
    the decoder, and the samples after it are not those of a sequential decoder.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; raises the errors of soundfile."""
        self._source: LongFile | None = None
        super().__init__(path)
        self._counted = count_frames(path) if self.format == "MP3" else None
        if self._counted is not None and self._counted.num_samples > super().frames:
            super().close()
            self._source = LongFile(path, self._counted)
            with self._errors_of_source():
                super().__init__(self._source)

    @contextmanager
    def _errors_of_source(self) -> Iterator[None]:
        """Raise what ended a read of the source, which libsndfile takes for the end of the file."""
        try:
            yield
        finally:
            if self._source is not None and self._source.error is not None:
                raise self._source.error

    def read(self, *arguments: Any, **options: Any) -> Any:
        """Read as soundfile does; raises OSError for a source that cannot be read."""
        with self._errors_of_source():
            return super().read(*arguments, **options)

    @property
    def frames(self) -> int:
        """Number of samples per channel; libsndfile guesses it if an MP3 does not declare it, so they are counted."""
        guess = int(super().frames)
        return guess if self._counted is None else min(guess, self._counted.num_samples)

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._source is not None:
            self._source.close()

    def seekable(self) -> bool:
        """Return False, so that `read` does not seek; `seek` can be called all the same."""
        return False

    @property
    def header(self) -> Header:
        """The header, which can be kept when the file is closed."""
        return Header(self.format, self.subtype, self.samplerate, self.channels, self.frames)

    def blocks_of(self, count: int, block_s: float | None = None) -> Iterator[Samples]:
        """Yield the next `count` frames in blocks of `block_s` seconds, float32 (S, channels).

        They are fewer if decoding ends before. `SoundFile.blocks` would yield old frames then.
        """
        block = max(1, round((block_s or BLOCK_S) * self.samplerate))
        while count > 0:
            wanted = min(block, count)
            frames = self.read(wanted, dtype="float32", always_2d=True)
            if len(frames):
                yield np.asarray(frames)
            if len(frames) < wanted:
                return
            count -= wanted


def mix_channels(frames: Samples) -> Samples:
    """Return the mean over the channels of frames (S, channels), (S,).

    It has the bits of `frames.mean(axis=1)`, which takes ten times as long for two channels.
    """
    num_channels = frames.shape[1]
    if num_channels >= PAIRWISE:
        return np.asarray(frames.mean(axis=1, dtype=np.float32))
    mean = frames[:, 0] + np.float32(0)  # -0.0 becomes 0.0
    for channel in range(1, num_channels):
        mean += frames[:, channel]
    return mean if num_channels == 1 else mean / np.float32(num_channels)
