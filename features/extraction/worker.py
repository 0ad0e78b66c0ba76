"""Units of work, the worker that encodes and commits them, and the engine that runs workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch

from features.audio.resampling import SAMPLE_RATE
from features.device import precision_context
from features.encoders.base import Encoder
from features.environment import made_with
from features.extraction.encode import encode_batch
from features.heap import keep_freed_memory
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget, default_budget
from features.signals import check_interrupted
from features.store.identity import StoreInfo
from features.store.rejected import Rejection
from features.store.writer import StoreWriter


@dataclass(frozen=True)
class Unit:
    """One unit of work: the batches that hold utterances to encode."""

    name: str
    batches: list[list[Utterance]]
    wanted: list[set[str]]
    """For each store the ids of the utterances that it lacks."""


@dataclass(frozen=True)
class UnitResult:
    """Result of encoding one unit."""

    name: str
    written: list[list[str]]
    """For each store the ids of the committed utterances."""
    rejected: list[Rejection]
    audio_seconds: float
    """Seconds of the encoded audio; 0 for text."""


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
    ) -> None:
        self.encoder, self.device, self.precision = encoder.to(device), device, precision
        self.destinations, self.token = list(destinations), token
        self.made_with = made_with(encoder.modality, device)
        self.budget = MemoryBudget(device)
        keep_freed_memory()

    def encode(self, unit: Unit) -> UnitResult:
        """Encode a unit and commit its features.

        If interrupted, the finished batches are committed.
        """
        rejected: list[Rejection] = []
        seconds = 0.0
        with ExitStack() as stack:
            writers = []
            # leaving the stack commits what each writer holds
            for store in self.destinations:
                writer = StoreWriter(store.info, store.generation, store.kind, self.token, self.made_with)
                writers.append(stack.enter_context(writer))
            stack.enter_context(precision_context(self.device, self.precision))
            for batch in unit.batches:
                check_interrupted()
                encoded = encode_batch(batch, self.encoder, self.device, writers[0].dtype, self.budget)
                rejected += encoded.rejected
                for writer, wanted, utterances in zip(writers, unit.wanted, encoded.layers, strict=True):
                    # a batch is encoded whole, also if a store lacks only some of its utterances
                    writer.add([utterance for utterance in utterances if utterance.utterance_id in wanted])
                if self.encoder.modality == "audio":
                    seconds += sum(utterance.num_inputs for utterance in encoded.layers[0]) / SAMPLE_RATE
        return UnitResult(unit.name, [writer.written for writer in writers], rejected, seconds)


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

    def collect(self) -> list[UnitResult]:
        """Wait until at least one unit is done; return the results of all finished units."""

    def close(self) -> None:
        """Stop all running units."""


class LocalEngine:
    """Engine that encodes in this process."""

    capacity = 1

    def __init__(self, encoder: Encoder, device: torch.device, precision: str) -> None:
        self.encoder, self.device, self.precision = encoder, device, precision
        self.default_budget = default_budget(encoder.modality, device)
        self._worker: Worker | None = None
        self._next: Unit | None = None

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Move the encoder to its device."""
        self._worker = Worker(self.encoder, self.device, self.precision, destinations, token)

    def submit(self, unit: Unit) -> None:
        """Keep the unit; `collect` encodes it."""
        self._next = unit

    def collect(self) -> list[UnitResult]:
        """Encode the unit."""
        unit, self._next = self._next, None
        return [self._worker.encode(unit)] if unit is not None and self._worker is not None else []

    def close(self) -> None:
        """Do nothing: no unit runs between calls."""
