"""The worker that encodes and commits units, and the engine that runs it.

Threads read the next utterances while the encoder runs, and another one commits the features of the
batch before. The encoder starts a unit when the one before is committed: a killed process loses one
unit at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from features.device import exact_fp32, precision_context
from features.encoders.base import Encoder
from features.environment import made_with
from features.extraction.encode import finish_batch, launch_batch
from features.extraction.unit import Unit, UnitResult
from features.extraction.unit_reader import UnitReader, default_workers
from features.extraction.unit_writer import InlineExecutor, UnitWriter
from features.heap import keep_freed_memory
from features.memory import MemoryBudget, default_budget
from features.signals import check_interrupted
from features.store.identity import StoreInfo
from features.store.writer import StoreWriter


@dataclass(frozen=True)
class Destination:
    """Store of one layer, with the generation and format of its new parts."""

    info: StoreInfo
    generation: int
    kind: str
    """hdf5 or zarr."""


class Worker:
    """Runs one encoder on one device and commits the features.

    `token` marks its temporary files.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        precision: str,
        destinations: Sequence[Destination],
        token: str,
        workers: int = 0,
    ) -> None:
        self.encoder, self.device, self.precision = encoder.to(device), device, precision
        self.destinations, self.token = list(destinations), token
        self.made_with = made_with(encoder.modality, device)
        self.budget = MemoryBudget(device)
        self.reader = UnitReader(encoder, workers)
        self._executor = ThreadPoolExecutor(1, "mervn-write") if workers else InlineExecutor()
        keep_freed_memory()

    def encode(self, unit: Unit) -> UnitResult:
        """Encode a unit and commit its features.

        If interrupted, the finished batches are committed.
        """
        writers = []
        for store in self.destinations:
            writers.append(StoreWriter(store.info, store.generation, store.kind, self.token, self.made_with))
        unit_writer = UnitWriter(unit, writers, self._executor)
        with exact_fp32(), unit_writer, closing(self.reader.batches(unit)) as batches:
            for read in batches:
                check_interrupted()
                # not around the reading: resampling in bf16 would change the samples
                with precision_context(self.device, self.precision):
                    launched = launch_batch(read, self.encoder, self.device, self.budget)
                finish = partial(finish_batch, launched, self.encoder, self.device, writers[0].dtype)
                unit_writer.add(finish, launched.num_bytes)
        return unit_writer.result(self.encoder.modality)

    def close(self) -> None:
        """Stop the threads."""
        self.reader.close()
        self._executor.shutdown()


class Engine(Protocol):
    """Runs units: in this process, or on the actors of a cluster."""

    capacity: int
    """Maximum number of units that run at the same time."""
    device: torch.device
    """Device of the encoder."""
    default_budget: float
    """Default batch size of the device, in padded seconds or tokens."""

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Set the stores and the token of the temporary files.

        It must be called before the first `submit`.
        """

    def submit(self, unit: Unit) -> None:
        """Start a unit; at most `capacity` may run."""

    def prepare(self, unit: Unit) -> None:
        """Read in advance a unit that will probably be submitted next."""

    def collect(self) -> list[UnitResult]:
        """Wait until at least one unit is done; return the results of all finished units."""

    def close(self) -> None:
        """Stop all running units."""


class LocalEngine:
    """Engine that encodes in this process, and reads audio in `workers` threads (None: by the device)."""

    capacity = 1

    def __init__(self, encoder: Encoder, device: torch.device, precision: str, workers: int | None = None) -> None:
        self.encoder, self.device, self.precision = encoder, device, precision
        self.workers = default_workers(device) if workers is None else workers
        self.default_budget = default_budget(encoder.modality, device)
        self._stack = ExitStack()
        self._worker: Worker | None = None
        self._next: Unit | None = None

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Move the encoder to its device."""
        # between two units too: threads read audio with these settings
        self._stack.enter_context(exact_fp32())
        worker = Worker(self.encoder, self.device, self.precision, destinations, token, self.workers)
        self._worker = self._stack.enter_context(closing(worker))

    def submit(self, unit: Unit) -> None:
        """Begin to read the unit; `collect` encodes it."""
        self._next = unit
        if self._worker is not None:
            self._worker.reader.begin(unit)

    def prepare(self, unit: Unit) -> None:
        """Read a unit after the submitted one."""
        if self._worker is not None:
            self._worker.reader.prepare(unit)

    def collect(self) -> list[UnitResult]:
        """Encode the unit."""
        unit, self._next = self._next, None
        return [self._worker.encode(unit)] if unit is not None and self._worker is not None else []

    def close(self) -> None:
        """Stop the threads that read and write."""
        self._stack.close()
