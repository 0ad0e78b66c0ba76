"""SegmentHashes: hashes of the decoded samples of utterances, computed in threads ahead of the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from features.audio.decoding import segment_sha256, unreadable_now
from features.audio.segment import SYSTEM_ERROR, AudioError, Channel
from features.cpu_threads import usable_cores
from features.extraction.prefetch import NoResultError, Prefetch
from features.manifests.manifest import Utterance

Item = TypeVar("Item")
Segment = tuple[Path, float, float | None, Channel]
"""The arguments of `segment_sha256`."""
AHEAD = 1024
"""Number of items that wait for the hash of the first of them."""
BYTES_PER_SECOND = 8000
"""Of compressed audio, to estimate a duration from the size of a file; that of other audio is overestimated."""


class SegmentHashes:
    """Computes `segment_sha256` of utterances, of each segment once, in `threads` threads (by default one per core)."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or usable_cores()
        self._known: dict[Segment, str | AudioError] = {}

    def of(
        self, items: Iterable[tuple[Item, Utterance | None]]
    ) -> Generator[tuple[Item, str | AudioError | None], None, None]:
        """Yield each item with the hash of its utterance, or why it cannot be decoded; None without utterance.

        The order stays. Ctrl-C is seen, and a file that does not answer within 300 s, or within its duration if that
        is longer, is named.
        """
        prefetch = Prefetch[Segment, str](lambda segment: segment_sha256(*segment), self._threads, lambda digest: 0)
        waiting = deque[tuple[Item, Segment | None]]()
        begun = set[Segment]()
        with closing(prefetch):
            for item, utterance in items:
                if utterance is None and not waiting:
                    yield item, None
                    continue
                segment = None if utterance is None else _segment_of(utterance)
                if segment is not None and segment not in self._known and segment not in begun:
                    begun.add(segment)
                    prefetch.add([(segment, _seconds(segment))])
                waiting.append((item, segment))
                if len(waiting) == AHEAD:
                    yield self._next(waiting, prefetch)
            while waiting:
                yield self._next(waiting, prefetch)

    def _next(
        self, waiting: deque[tuple[Item, Segment | None]], prefetch: Prefetch[Segment, str]
    ) -> tuple[Item, str | AudioError | None]:
        """Return the first of the waiting items with its hash."""
        item, segment = waiting.popleft()
        if segment is None:
            return item, None
        if segment not in self._known:
            self._known[segment] = _take(segment, prefetch)
        return item, self._known[segment]


def _take(segment: Segment, prefetch: Prefetch[Segment, str]) -> str | AudioError:
    """Return the hash of the segment that is read next, or why it cannot be decoded."""
    try:
        return prefetch.take()
    except NoResultError as error:
        return AudioError(SYSTEM_ERROR, unreadable_now(segment[0], str(error)))
    except AudioError as error:
        reason, message = error.reason, str(error)  # the error itself would keep the samples in memory
    if reason == "out_of_memory":  # several segments shared the memory: alone, it may fit
        with suppress(AudioError):
            return segment_sha256(*segment)
    return AudioError(reason, message)


def _segment_of(utterance: Utterance) -> Segment:
    return utterance.audio_path, utterance.start, utterance.end, utterance.channel


def _seconds(segment: Segment) -> float | None:
    """Return the estimated duration of a segment; None if its file cannot be found."""
    path, start, end, _ = segment
    if end is not None:
        return end - start
    try:
        return path.stat().st_size / BYTES_PER_SECOND
    except OSError:
        return None
