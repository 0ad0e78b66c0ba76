"""Voice activity: the parts of a recording in which somebody speaks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from features.audio.resampling import SAMPLE_RATE, Samples, resample
from features.audio.segment import Channel, decode_blocks, inspect_segment, select_channel
from features.errors import UsageError
from features.progress import Reporter
from features.signals import check_interrupted

BLOCK_S = 30.0
"""Seconds that are decoded and resampled at once, so that memory does not grow with the recording."""
MIN_SPEECH_S = 0.25
"""Shorter speech is left out, as silero-vad does by default."""
MAX_SPEECH_S = 30.0
"""Longer speech is cut into equal parts of at most this length."""
SILERO_SAMPLES = 512
"""Samples at 16 kHz of one step of silero-vad."""


class SpeechDetector(Protocol):
    """Finds speech in a stream of audio; another detector needs this one method."""

    def detect(self, blocks: Iterable[Samples]) -> Iterator[tuple[float, float]]:
        """Yield the parts with speech as (start, end) in seconds, in order, from blocks at 16 kHz."""


class SileroDetector:
    """silero-vad with its default thresholds, fed step by step."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings(), _one_thread():  # the import sets one thread for the whole process
                warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load, which silero-vad calls
                from silero_vad import VADIterator, load_silero_vad

                self._iterator: Any = VADIterator(load_silero_vad(), sampling_rate=SAMPLE_RATE)
        except ImportError as error:
            raise UsageError(f"--vad needs silero-vad ({error}): pip install 'mervn[vad]'") from error

    def detect(self, blocks: Iterable[Samples]) -> Iterator[tuple[float, float]]:
        """Yield the parts with speech."""
        self._iterator.reset_states()
        rest, total, start = np.zeros(0, np.float32), 0, None
        for block in blocks:
            total += len(block)
            samples = np.concatenate([rest, block])
            whole = len(samples) - len(samples) % SILERO_SAMPLES
            for event in self._events(samples[:whole]):
                if "start" in event:
                    start = int(event["start"])
                elif start is not None:
                    yield start / SAMPLE_RATE, int(event["end"]) / SAMPLE_RATE
                    start = None
            rest = samples[whole:]
        if start is not None:  # the recording ends while somebody speaks
            yield start / SAMPLE_RATE, total / SAMPLE_RATE

    def _events(self, samples: Samples) -> list[dict[str, float]]:
        """Return the starts and ends of speech, in samples since the beginning, of whole steps."""
        import torch

        found = []
        with _one_thread():  # the steps are too small for more
            for step in torch.from_numpy(samples).split(SILERO_SAMPLES):
                event = self._iterator(step)
                if event is not None:
                    found.append(event)
        return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one CPU thread; the number of before is restored."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_detector() -> SpeechDetector:
    """Return the detector of --vad; UsageError if its package is not installed."""
    return SileroDetector()


def find_speech(
    path: Path, channel: Channel, detector: SpeechDetector, reporter: Reporter
) -> list[tuple[float, float]]:
    """Return the parts of a file with speech as (start, end) in seconds, in order.

    AudioError if the file cannot be decoded.
    """
    info = inspect_segment(path, 0.0, None, channel)
    seconds = info.last / info.file_rate
    found: list[tuple[float, float]] = []
    with closing(reporter.progress(math.ceil(seconds), 0, f"finding speech in {path.name}", " s")) as bar:
        for start, end in detector.detect(_blocks(path, channel, info.file_rate, bar)):
            end = min(end, seconds)
            if end - start >= MIN_SPEECH_S:
                found += _equal_parts(start, end)
    return found


def _blocks(path: Path, channel: Channel, rate: int, bar: Any) -> Iterator[Samples]:
    """Yield a file in blocks at 16 kHz.

    Each block is resampled alone: at its edges, a few samples differ from those of the whole file.
    """
    position = 0
    for frames in decode_blocks(path, BLOCK_S):
        check_interrupted()
        yield resample(select_channel(path, frames, channel, position), rate, SAMPLE_RATE)
        position += len(frames)
        bar.update(round(len(frames) / rate))


def _equal_parts(start: float, end: float) -> list[tuple[float, float]]:
    """Cut speech into equal parts of at most `MAX_SPEECH_S`; times are rounded to microseconds."""
    count = max(1, math.ceil((end - start) / MAX_SPEECH_S))
    edges = [round(start + (end - start) * k / count, 6) for k in range(count + 1)]
    return list(pairwise(edges))
