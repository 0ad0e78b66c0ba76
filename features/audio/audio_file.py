"""AudioFile: an audio file that is decoded from its start, without seeking."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soundfile

from features.audio.resampling import Samples

BLOCK_S = 10.0
"""Seconds that `blocks_of` decodes at once."""


class AudioFile(soundfile.SoundFile):
    """An open audio file whose `read` continues exactly where the last one ended.

    After each read, SoundFile seeks to the end of what it has read. In MP3 and Ogg, a seek restarts
    the decoder, and the samples after it are not those of a sequential decoder.
    """

    def seekable(self) -> bool:
        """Return False, so that `read` does not seek; `seek` can be called all the same."""
        return False

    def blocks_of(self, count: int) -> Iterator[Samples]:
        """Yield the next `count` frames in blocks of float32 (S, channels).

        They are fewer if decoding ends before. `SoundFile.blocks` would yield old frames then.
        """
        block = max(1, round(BLOCK_S * self.samplerate))
        while count > 0:
            wanted = min(block, count)
            frames = self.read(wanted, dtype="float32", always_2d=True)
            if len(frames):
                yield np.asarray(frames)
            if len(frames) < wanted:
                return
            count -= wanted
