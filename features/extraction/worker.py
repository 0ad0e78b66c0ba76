"""The worker that encodes and commits units, and the engine that runs it.

Other processes decode the next utterances while the encoder runs, and a thread commits the features of
the batches before. While a unit is committed, the device computes the first batches of the next one,
which is neither claimed nor written before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from features.cpu_threads import leave_cores
from features.device import exact_fp32, precision_context
from features.encoders.base import Encoder
from features.environment import made_with
from features.extraction.encode import LaunchedBatch, ReadBatch, finish_batch, launch_batch
from features.extraction.launches import Launches
from features.extraction.unit import Unit, UnitResult
from features.extraction.unit_reader import UnitReader, default_workers
from features.extraction.unit_writer import InlineExecutor, UnitWriter
from features.heap import keep_freed_memory
from features.memory import MemoryBudget, default_budget
from features.signals import check_interrupted, interrupted
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
        self._next: Launches | None = None
        """The unit of which batches were launched ahead."""
        self._executor = ThreadPoolExecutor(1, "mervn-write") if workers else InlineExecutor()
        keep_freed_memory()

    def begin(self, unit: Unit) -> None:
        """Begin to read a unit, unless its batches are launched already."""
        if self._next is not None and self._next.unit.batches != unit.batches:
            self._next.close()
            self._next = None
        if self._next is None:
            self.reader.begin(unit)

    def encode(self, unit: Unit, upcoming: Unit | None = None) -> UnitResult:
        """Encode a unit and commit its features.

        If interrupted, the finished batches are committed. While the unit is committed, the first
        batches of `upcoming` are launched: the unit that will probably be encoded next.
        """
        self.begin(unit)
        launches, self._next = self._next or Launches(unit, self.reader, self._launch), None
        writers = []
        for store in self.destinations:
            writers.append(StoreWriter(store.info, store.generation, store.kind, self.token, self.made_with))
        unit_writer = UnitWriter(unit, writers, self._executor)
        with exact_fp32(), unit_writer, closing(launches):
            for launched in launches:
                check_interrupted()
                finish = partial(finish_batch, launched, self.encoder, self.device, writers[0].dtype)
                unit_writer.add(finish, launched.num_bytes)
            unit_writer.commit()
            if upcoming is not None:
                self._launch_ahead(upcoming, unit_writer)
        return unit_writer.result(self.encoder.modality)

    def _launch(self, read: ReadBatch) -> LaunchedBatch:
        # not around the reading: resampling in bf16 would change the samples
        with precision_context(self.device, self.precision):
            return launch_batch(read, self.encoder, self.device, self.budget)

    def _launch_ahead(self, unit: Unit, before: UnitWriter) -> None:
        """Launch batches of a unit until the one before is committed."""
        self._next = Launches(unit, self.reader, self._launch)
        before.when_committed(self.reader.wake)
        while not interrupted() and not before.is_committed():
            if not self._next.launch_ahead():
                self._next.wait(before.is_committed)

    def close(self) -> None:
        """Stop the threads."""
        if self._next is not None:
            self._next.close()
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
    """Engine that encodes in this process; `workers` others decode audio (None: by the device)."""

    capacity = 1

    def __init__(self, encoder: Encoder, device: torch.device, precision: str, workers: int | None = None) -> None:
        self.encoder, self.device, self.precision = encoder, device, precision
        self.workers = default_workers(device) if workers is None else workers
        self.default_budget = default_budget(encoder.modality, device)
        self._stack = ExitStack()
        self._worker: Worker | None = None
        self._unit: Unit | None = None
        self._upcoming: Unit | None = None

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Move the encoder to its device."""
        # between two units too: threads prepare inputs with these settings
        self._stack.enter_context(exact_fp32())
        if self.device.type != "cpu" and self.encoder.modality == "audio":
            # a thread of torch that waits for a core delays the others, and spins meanwhile
            self._stack.enter_context(leave_cores(self.workers))
        worker = Worker(self.encoder, self.device, self.precision, destinations, token, self.workers)
        self._worker = self._stack.enter_context(closing(worker))

    def submit(self, unit: Unit) -> None:
        """Begin to read the unit; `collect` encodes it."""
        self._unit, self._upcoming = unit, None
        if self._worker is not None:
            self._worker.begin(unit)

    def prepare(self, unit: Unit) -> None:
        """Read a unit after the submitted one."""
        self._upcoming = unit
        if self._worker is not None:
            self._worker.reader.prepare(unit)

    def collect(self) -> list[UnitResult]:
        """Encode the unit."""
        unit, self._unit = self._unit, None
        return [] if unit is None or self._worker is None else [self._worker.encode(unit, self._upcoming)]

    def close(self) -> None:
        """Stop reading and writing."""
        self._stack.close()
