"""ClipReader: decodes the audio of the clips of a block, and of the block that follows, ahead of the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.decode_processes import PROCESSES
from features.audio.decoding import unreadable_now
from features.audio.segment import SYSTEM_ERROR, AudioError
from features.audio.segment_reader import SegmentReader
from features.extraction.prefetch import NoResultError, Prefetch
from features.extraction.prefetched_groups import PrefetchedGroups
from mervn.use.clips import Clip

Array = np.ndarray[Any, Any]


class ClipReader:
    """Reads clips in `workers` threads with a decoding process each; with 0, at the moment they are needed."""

    def __init__(self, workers: int, reader: SegmentReader) -> None:
        """With 0 workers, `reader` reads the clips."""
        self._workers, self._reader = workers, reader
        self._prefetch = Prefetch[Clip, Array](
            self._samples, workers, lambda wave: wave.nbytes, abandon=PROCESSES.abandon
        )
        self._blocks = PrefetchedGroups(self._prefetch)

    def prepare(self, clips: Sequence[Clip], seconds: Sequence[float]) -> None:
        """Begin to read clips of these durations, after those that are being read.

        A clip that is not read within its duration, but at least 300 s, is a fault of its audio.
        """
        self._blocks.prepare(clips, seconds)

    def read(self, clips: Sequence[Clip]) -> Iterator[Array | AudioError]:
        """Yield the samples (S,) of each clip, or why they cannot be read; blocks prepared before are dropped."""
        return self._blocks.take(clips, [None] * len(clips), self._take)

    def close(self) -> None:
        """Stop reading."""
        self._prefetch.close()

    def _take(self, clip: Clip) -> Array | AudioError:
        try:
            return self._prefetch.take()
        except AudioError as error:
            return error
        except NoResultError as error:
            return AudioError(SYSTEM_ERROR, unreadable_now(Path(str(clip.audio)), str(error)))

    def _samples(self, clip: Clip) -> Array:
        """Return the samples (S,) of a clip; AudioError if they cannot be read."""
        if not self._workers or not isinstance(clip.audio, Path):
            return clip.samples(self._reader)
        decoded = PROCESSES.decode(clip.audio, clip.start, clip.end, clip.channel)
        decoded.check()
        return decoded.samples
