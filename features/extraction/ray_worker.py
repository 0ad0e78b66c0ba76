"""Ray actor that encodes units on one machine of a cluster."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from features.cpu_threads import set_threads
from features.device import resolve_device
from features.encoders.selector import Selector
from features.environment import computing_versions, package_version
from features.errors import InputError
from features.extraction.settings import ExtractSettings, open_encoder, store_identity
from features.extraction.unit import Unit, UnitResult
from features.extraction.unit_reader import default_workers
from features.extraction.worker import Destination, Worker
from features.memory import default_budget
from features.store.identity import STORE_FILE, StoreIdentity

WORKERS = 2
"""Maximum number of processes that decode audio for an actor: several actors may share a machine."""


@dataclass(frozen=True)
class Expected:
    """Properties that every actor must share with the driver."""

    identities: list[StoreIdentity]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Status of an actor after it has loaded the encoder."""

    fault: str | None
    """Why the actor cannot be used; None if it can."""
    device: str
    budget: float
    """Default batch size of its device, in padded seconds or tokens."""


class RayWorker:
    """Ray actor: a worker with its own encoder.

    If its machine cannot be used, `report` returns the reason, and `encode` raises it.
    """

    def __init__(self, selector: Selector, settings: ExtractSettings, expected: Expected) -> None:
        self.node = platform.node()
        self.settings = settings
        self._worker: Worker | None = None
        set_threads(settings.threads)
        try:
            self.fault = self._load(selector, expected)
        except InputError as error:
            self.fault = f"on {self.node}: {error}"

    def _load(self, selector: Selector, expected: Expected) -> str | None:
        """Load the encoder; return the difference from the driver's machine, or None."""
        versions = common_versions(selector.modality)
        differing = []
        for name, version in expected.versions.items():
            if versions.get(name) != version:
                differing.append(f"{name} {versions.get(name)} for {version}")
        if differing:
            found = ", ".join(differing)
            return f"every machine of the cluster must have the same versions, but {self.node} has {found}"
        self.device = resolve_device(self.settings.device)
        self.encoder = open_encoder(selector, self.settings)
        identities = [store_identity(self.encoder, selector, layer, self.settings) for layer in self.encoder.layers]
        if identities != expected.identities:
            return f"{selector} must be the same encoder on every machine, but {self.node} has a different one"
        return None

    def report(self) -> Report:
        """Return the status of this machine: its fault, if any, its device and its batch size."""
        if self.fault:
            return Report(self.fault, "cpu", 0.0)
        return Report(None, str(self.device), default_budget(self.encoder.modality, self.device))

    def encode(self, unit: Unit, destinations: Sequence[Destination], token: str) -> UnitResult:
        """Encode a unit and commit its features.

        InputError if the machine cannot be used, or lacks a file that the unit needs.
        """
        lacking = None if self.fault else self._lacking_file(unit, destinations)
        if lacking is not None:
            self.fault = f"{lacking} must exist on every machine of the cluster, but does not on {self.node}"
        if self.fault:
            raise InputError(self.fault)
        # created by the first unit: only `encode` knows the destinations and the token
        if self._worker is None:
            precision, workers = self.settings.encoder_precision, min(WORKERS, default_workers(self.device))
            self._worker = Worker(self.encoder, self.device, precision, destinations, token, workers)
        return self._worker.encode(unit)

    def _lacking_file(self, unit: Unit, destinations: Sequence[Destination]) -> Path | None:
        """Return a store or an audio file that exists on the driver but not on this machine."""
        needed = [destination.info.path / STORE_FILE for destination in destinations]
        if self.encoder.modality == "audio":
            needed += [utterance.audio_path for utterance in chain.from_iterable(unit.batches)]
        for path in needed:
            if not path.exists():
                return path
        return None

    def process(self) -> int:
        """Return the process id of the actor."""
        return os.getpid()


def common_versions(modality: str) -> dict[str, str]:
    """Return the versions that must be equal on all machines.

    CPU and CUDA builds count as the same version.
    """
    versions = {"mervn": package_version("mervn")} | computing_versions(modality)
    for name, version in versions.items():
        versions[name] = version.partition("+")[0]
    return versions
