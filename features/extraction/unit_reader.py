"""UnitReader: reads the batches of a unit, and of the unit that probably follows, ahead of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import chain, islice

import torch

from features.audio.decode_processes import PROCESSES
from features.audio.decoding import unreadable_now
from features.audio.segment import SYSTEM_ERROR
from features.cpu_threads import usable_cores
from features.encoders.base import Encoder
from features.extraction.encode import ReadBatch, gather_batch, read_or_reject
from features.extraction.encoder_input import Input
from features.extraction.prefetch import NoResultError, Prefetch
from features.extraction.prefetched_groups import PrefetchedGroups
from features.extraction.unit import Unit
from features.manifests.manifest import Utterance
from features.store.rejected import Rejection

MAX_WORKERS = 8
"""Maximum of the default number of processes that decode."""


def default_workers(device: torch.device) -> int:
    """Return the default number of processes that decode audio.

    On a CPU it is 0: the encoder uses all cores, and decoding takes a small fraction of its time.
    """
    return 0 if device.type == "cpu" else max(1, min(MAX_WORKERS, usable_cores() - 1))


class UnitReader:
    """Reads and prepares the utterances of units, in `workers` threads with a decoding process each.

    A segmenter or the `prepare` of a custom encoder may not be made for several threads: the caller's
    thread prepares text, and at most one other thread the input of a custom encoder.
    """

    def __init__(self, encoder: Encoder, workers: int) -> None:
        if encoder.modality == "text":
            workers = 0
        if encoder.code_record is not None:
            workers = min(workers, 1)
        self._encoder = encoder
        read = partial(read_or_reject, encoder, decode=PROCESSES.decode) if workers else self._read_here
        self._prefetch = Prefetch[Utterance, Input | Rejection](read, workers, _num_bytes, abandon=PROCESSES.abandon)
        self._units = PrefetchedGroups(self._prefetch)

    def begin(self, unit: Unit) -> None:
        """Begin to read a unit, unless it is being read; drop the units before it."""
        self._units.begin(*_utterances(unit))

    def prepare(self, unit: Unit) -> None:
        """Read a unit after those that are being read."""
        self._units.prepare(*_utterances(unit))

    def is_ready(self, count: int) -> bool:
        """Tell whether the next utterances are read, so that `batches` would not wait for them."""
        return self._prefetch.is_ready(count)

    def wait(self, count: int | None, is_over: Callable[[], bool]) -> None:
        """Wait until the next `count` utterances are read or `is_over`, at most for a fraction of a second.

        With None, wait for `is_over` only; `wake` makes this method look at it again.
        """
        self._prefetch.wait(count, is_over)

    def wake(self) -> None:
        """Let `wait` look at its `is_over` (from any thread)."""
        self._prefetch.wake()

    def batches(self, unit: Unit) -> Generator[ReadBatch, None, None]:
        """Yield the batches of a unit in order."""
        self.begin(unit)  # `take` begins when its first result is asked for, too late to wait for a whole batch
        with closing(self._units.take(*_utterances(unit), self._take)) as results:
            for batch in unit.batches:
                self._prefetch.wait_for_next(len(batch))
                yield gather_batch(islice(results, len(batch)))

    def close(self) -> None:
        """Stop reading."""
        self._prefetch.close()

    def _read_here(self, utterance: Utterance) -> Input | Rejection:
        return read_or_reject(self._encoder, utterance)

    def _take(self, utterance: Utterance) -> Input | Rejection:
        try:
            read = self._prefetch.take()
            if isinstance(read, Rejection) and read.reason == "out_of_memory":
                return self._read_here(utterance)  # several share the memory: alone, it may fit
            return read
        except NoResultError as error:
            # without a key: to compute it, the file would have to be read
            return Rejection(utterance, SYSTEM_ERROR, unreadable_now(utterance.audio_path, str(error)))


def _utterances(unit: Unit) -> tuple[list[Utterance], list[float | None]]:
    """Return the utterances of a unit in order, and the seconds of audio of each, None if unknown."""
    utterances = list(chain.from_iterable(unit.batches))
    return utterances, [unit.seconds.get(utterance.utterance_id) for utterance in utterances]


def _num_bytes(read: Input | Rejection) -> int:
    return read.prepared.nbytes if isinstance(read, Input) else 0
