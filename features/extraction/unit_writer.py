"""UnitWriter: checks and commits the features of a unit while its next batch is encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack
from types import TracebackType
from typing import ParamSpec, TypeVar

from features.audio.resampling import SAMPLE_RATE
from features.extraction.encode import EncodedBatch
from features.extraction.unit import Unit, UnitResult
from features.store.rejected import Rejection
from features.store.writer import StoreWriter

PENDING_BATCHES = 2
"""Maximum number of batches that are not finished when the next one is launched: on a GPU, one
computes while another waits for it."""
PENDING_BYTES = 512 << 20
"""Bytes of a batch of features; a larger one is written before the next batch is encoded."""
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class InlineExecutor(Executor):
    """Executor that calls a function at once, in the thread of the caller."""

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Call the function; its exception is raised here."""
        future: Future[Result] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class UnitWriter:
    """Adds the batches of one unit to the writers of its stores, one per layer.

    Only `executor`, which has one thread at most, uses the writers: it takes one batch after the
    other. Leaving the `with` block commits the finished batches, even after an error or Ctrl-C. An
    error of the executor, such as a full disk, is raised by a later `add` or at the end.
    """

    def __init__(self, unit: Unit, writers: Sequence[StoreWriter], executor: Executor) -> None:
        self._unit, self._writers, self._executor = unit, writers, executor
        self._rejected: list[Rejection] = []
        self._num_inputs = 0
        self._pending: deque[Future[None]] = deque()
        self._failed = False
        self._is_committing = False

    def __enter__(self) -> UnitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.commit()
            wait(self._pending)
            for future in self._pending:
                future.result()
        except Exception:
            if kind is None:  # otherwise the first error is the one to report
                raise

    def commit(self) -> None:
        """Begin to commit the batches that were added; leaving the `with` block waits for it."""
        if not self._is_committing:
            self._is_committing = True
            self._pending.append(self._executor.submit(self._flush))

    def is_committed(self) -> bool:
        """Tell whether all batches are committed; call it after `commit`."""
        return self._pending[-1].done()  # the executor has one thread: the others are done before

    def when_committed(self, function: Callable[[], object]) -> None:
        """Call a function as soon as all batches are committed, in some thread; call it after `commit`."""
        self._pending[-1].add_done_callback(lambda _: function())

    def add(self, finish: Callable[[], EncodedBatch], num_bytes: int) -> None:
        """Add the batch that `finish` returns; wait until few batches are unfinished, none of many bytes."""
        self._pending.append(self._executor.submit(self._add, finish))
        allowed = PENDING_BATCHES if num_bytes <= PENDING_BYTES else 0
        while len(self._pending) > allowed:
            self._pending.popleft().result()

    def result(self, modality: str) -> UnitResult:
        """Return what was committed and rejected; call it after the `with` block."""
        seconds = self._num_inputs / SAMPLE_RATE if modality == "audio" else 0.0
        return UnitResult(self._unit.name, [writer.written for writer in self._writers], self._rejected, seconds)

    def _add(self, finish: Callable[[], EncodedBatch]) -> None:
        if self._failed:  # a batch before this one could not be written
            return
        self._failed = True
        encoded = finish()
        for writer, wanted, utterances in zip(self._writers, self._unit.wanted, encoded.layers, strict=True):
            # a batch is encoded whole, also if a store lacks only some of its utterances
            writer.add([utterance for utterance in utterances if utterance.utterance_id in wanted])
        self._rejected += encoded.rejected
        self._num_inputs += sum(utterance.num_inputs for utterance in encoded.layers[0])
        self._failed = False

    def _flush(self) -> None:
        with ExitStack() as stack:
            for writer in self._writers:  # leaving a writer commits what it holds
                stack.enter_context(writer)
