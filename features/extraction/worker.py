"""Units of extraction: encoded whole by one worker, which commits them to the store of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch

from features.device import precision_context
from features.encoders.base import Encoder
from features.environment import made_with
from features.extraction.encode import encode_batch
from features.extraction.encoder_input import SAMPLE_RATE
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget, default_budget
from features.signals import check_interrupted
from features.store.identity import StoreInfo
from features.store.rejected import Rejection
from features.store.writer import StoreWriter


@dataclass(frozen=True)
class Unit:
    """What one worker is given: the batches of a unit that hold something to encode."""

    name: str
    batches: list[list[Utterance]]
    wanted: list[set[str]]
    """For each store the ids whose rows it lacks."""


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit."""

    name: str
    written: list[list[str]]
    """For each store the ids committed."""
    rejected: list[Rejection]
    audio_seconds: float


@dataclass(frozen=True)
class Destination:
    """Where a layer's rows go."""

    info: StoreInfo
    generation: int
    kind: str
    """hdf5 or zarr."""


class Worker:
    """One encoder on one device; it commits what it encodes under temporaries of `token`."""

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

    def encode(self, unit: Unit) -> UnitResult:
        """Encode a unit and commit its rows; interrupted, the batches that were finished are committed."""
        rejected: list[Rejection] = []
        seconds = 0.0
        with ExitStack() as stack:
            writers = [
                stack.enter_context(StoreWriter(to.info, to.generation, to.kind, self.token, self.made_with))
                for to in self.destinations
            ]
            stack.enter_context(precision_context(self.device, self.precision))
            for batch in unit.batches:
                check_interrupted()
                layers, refused = encode_batch(batch, self.encoder, self.device, writers[0].dtype, self.budget)
                rejected += refused
                for writer, wanted, rows in zip(writers, unit.wanted, layers, strict=True):
                    writer.add([row for row in rows if row.utterance_id in wanted])
                if self.encoder.modality == "audio":
                    seconds += sum(row.num_inputs for row in layers[0]) / SAMPLE_RATE
        return UnitResult(unit.name, [writer.written for writer in writers], rejected, seconds)


class Engine(Protocol):
    """Who encodes units: this process, or actors on a cluster."""

    capacity: int
    """How many units may be under way at once."""
    device: torch.device
    """Where they are encoded."""
    default_budget: float
    """Padded seconds or tokens of a batch that the device takes."""

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Say where the rows of the units go, and under which token; before the first `submit`."""

    def submit(self, unit: Unit) -> None:
        """Hand over a unit; at most `capacity` may be under way."""

    def collect(self) -> list[UnitResult]:
        """Wait until at least one unit is done and return those that are."""

    def close(self) -> None:
        """Stop, whatever is under way."""


class LocalEngine:
    """Encodes in this process."""

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
        """Keep the unit for `collect`."""
        self._next = unit

    def collect(self) -> list[UnitResult]:
        """Encode the unit."""
        unit, self._next = self._next, None
        return [self._worker.encode(unit)] if unit is not None and self._worker is not None else []

    def close(self) -> None:
        """There is nothing to stop."""
