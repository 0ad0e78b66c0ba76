"""Extraction on a Ray cluster: actors load the encoder once and own the parts they write.

The driver keeps the plan and the claims. An actor that dies is replaced, and its unit is given out again. Every
machine must see the features folder and the audio under the same absolute paths, and have the same versions.
"""

from __future__ import annotations

import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from features.canonical import canonical_json
from features.cpu_threads import set_threads
from features.device import resolve_device
from features.encoders.base import Encoder
from features.encoders.selector import Selector
from features.environment import computing_versions, package_version
from features.errors import InputError, UsageError
from features.extraction.settings import ExtractSettings, open_encoder, store_identity
from features.extraction.worker import Destination, Unit, UnitResult, Worker
from features.manifests.manifest import Utterance
from features.memory import default_budget
from features.store.identity import STORE_FILE

RETRIES = 3
"""How often a unit whose actor died is given out again before the extraction fails."""
PATIENCE_S = 10.0
"""How long actors may take to start before the wait is announced."""


@dataclass(frozen=True)
class Expected:
    """What every actor must have in common with the driver."""

    identities: str
    """Of the stores, as canonical JSON."""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What an actor says of itself once it has loaded the encoder."""

    fault: str | None
    device: str
    budget: float
    """Padded seconds or tokens of a batch that its device takes."""


class RayEngine:
    """Hands units to actors."""

    def __init__(
        self,
        encoder: Encoder,
        selector: Selector,
        settings: ExtractSettings,
        identities: Sequence[Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._ray = _import_ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._start(settings)
        self.capacity, resources, device, place = self._resources(settings)
        self._actor = self._ray.remote(**resources)(RayWorker)
        # Workers have other working folders: a relative path means another file there.
        self._arguments = (
            replace(selector, model=encoder.source.usable),
            replace(settings, features_dir=settings.features_dir.absolute(), device=device),
            Expected(canonical_json(list(identities)), common_versions(encoder.modality)),
        )
        self._running: dict[Any, tuple[Any, Unit]] = {}
        self._deaths: Counter[str] = Counter()
        self._idle = [self._new_actor() for _ in range(self.capacity)]
        say(f"  {self.capacity} Ray actors, {place}")
        try:
            reports = self._reports(say)
        except BaseException:
            self.close()
            raise
        self.device = torch.device(reports[0].device)
        self.default_budget = min(report.budget for report in reports)
        self._destinations: list[Destination] = []
        self._token = ""

    def _start(self, settings: ExtractSettings) -> None:
        _refuse_unreachable(settings.ray_address)
        local: dict[str, Any] = {"num_cpus": max(settings.workers or 1, os.cpu_count() or 1)}
        try:
            self._ray.init(
                address=settings.ray_address, include_dashboard=False, log_to_driver=False,
                logging_level="error", **({} if settings.ray_address else local),
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray-address must be a cluster, found {settings.ray_address}: {error}") from error

    def _resources(self, settings: ExtractSettings) -> tuple[int, dict[str, Any], str, str]:
        """Return how many actors there will be, what each asks Ray for, its device, and that in words."""
        cluster = self._ray.cluster_resources()
        cpus, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
        cuda = settings.device.split(":")[0] == "cuda"
        if cuda and not gpus:
            raise UsageError(f"--device {settings.device} needs a GPU, but the Ray cluster has none; use --device cpu")
        if gpus and (cuda or settings.device == "auto"):
            count = settings.workers or gpus
            return count, {"num_gpus": gpus / count if count > gpus else 1}, "cuda", f"{gpus} GPUs"
        count = settings.workers or max(1, cpus // (settings.threads or 1))
        device = "cpu" if settings.device == "auto" else settings.device
        return count, {"num_cpus": min(cpus / count, settings.threads or max(1, cpus // count))}, device, f"{cpus} CPUs"

    def _new_actor(self) -> Any:
        return self._actor.remote(*self._arguments)

    def _reports(self, say: Callable[[str], None]) -> list[Report]:
        """Wait until every actor has loaded the encoder; InputError if one cannot be used, or keeps dying."""
        waiting = {actor.report.remote(): actor for actor in self._idle}
        reports: list[Report] = []
        announced = False
        while waiting:
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=PATIENCE_S)
            if not ready and not announced:
                say(f"  waiting for {len(waiting)} of {self.capacity} actors to start")
                announced = True
            for reference in ready:
                actor = waiting.pop(reference)
                try:
                    report = self._ray.get(reference)
                except self._ray.exceptions.RayActorError as error:
                    self._count_death("while it loaded the encoder", error)
                    self._idle[self._idle.index(actor)] = fresh = self._new_actor()
                    waiting[fresh.report.remote()] = fresh
                    continue
                if report.fault:
                    raise InputError(report.fault)
                reports.append(report)
        return reports

    def start(self, destinations: Sequence[Destination], token: str) -> None:
        """Say where the rows of the units go, and under which token."""
        self._destinations = [replace(to, info=replace(to.info, path=to.info.path.absolute())) for to in destinations]
        self._token = token

    def submit(self, unit: Unit) -> None:
        """Give a unit to an idle actor."""
        batches = [[_with_absolute_path(utterance) for utterance in batch] for batch in unit.batches]
        self._hand(self._idle.pop(), replace(unit, batches=batches))

    def _hand(self, actor: Any, unit: Unit) -> None:
        self._running[actor.encode.remote(unit, self._destinations, self._token)] = (actor, unit)

    def collect(self) -> list[UnitResult]:
        """Wait for the next actor to finish; InputError if one has a fault, or a unit's actors kept dying."""
        results: list[UnitResult] = []
        while not results:
            ready, _ = self._ray.wait(list(self._running), num_returns=1)
            for reference in ready:
                actor, unit = self._running.pop(reference)
                try:
                    results.append(self._ray.get(reference))
                except self._ray.exceptions.RayTaskError as error:
                    self._idle.append(actor)
                    if isinstance(error.cause, InputError):
                        raise InputError(str(error.cause)) from error
                    raise
                except self._ray.exceptions.RayActorError as error:
                    ids = ", ".join(utterance.utterance_id for utterance in unit.batches[0][:3])
                    self._count_death(f"on the unit of {ids}, ...", error)
                    self._hand(self._new_actor(), unit)
                else:
                    self._idle.append(actor)
        return results

    def _count_death(self, where: str, error: Exception) -> None:
        """Count the death of an actor; InputError if the same work has cost too many."""
        self._deaths[where] += 1
        if self._deaths[where] > RETRIES:
            raise InputError(
                f"an actor died {RETRIES + 1} times {where}: {str(error).splitlines()[0]}; what was finished is kept, "
                "and the same command resumes"
            ) from error

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


class RayWorker:
    """What an actor is: a worker with its own encoder. A fault of its machine is reported, and raised by `encode`."""

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
        """Load the encoder; return what tells this machine from the driver's."""
        versions = common_versions(selector.modality)
        other = [name for name, version in expected.versions.items() if versions.get(name) != version]
        if other:
            found = ", ".join(f"{name} {versions.get(name)} for {expected.versions[name]}" for name in other)
            return f"every machine of the cluster must have the same versions, but {self.node} has {found}"
        self.device = resolve_device(self.settings.device)
        self.encoder = open_encoder(selector, self.settings)
        identities = [store_identity(self.encoder, selector, layer, self.settings) for layer in self.encoder.layers]
        if canonical_json(identities) != expected.identities:
            return f"{selector} must be the same encoder on every machine, but is another on {self.node}"
        return None

    def report(self) -> Report:
        """Return whether this machine can be used, and how much its device takes."""
        if self.fault:
            return Report(self.fault, "cpu", 0.0)
        return Report(None, str(self.device), default_budget(self.encoder.modality, self.device))

    def encode(self, unit: Unit, destinations: Sequence[Destination], token: str) -> UnitResult:
        """Encode a unit and commit its rows; InputError if this machine cannot see what it needs."""
        unseen = None if self.fault else self._unseen(unit, destinations)
        if unseen is not None:
            self.fault = f"every machine of the cluster must see {unseen}, but {self.node} does not"
        if self.fault:
            raise InputError(self.fault)
        if self._worker is None:
            self._worker = Worker(self.encoder, self.device, self.settings.encoder_precision, destinations, token)
        return self._worker.encode(unit)

    def _unseen(self, unit: Unit, destinations: Sequence[Destination]) -> Path | None:
        """Return a store or an audio file that the driver saw and this machine does not."""
        needed = [to.info.path / STORE_FILE for to in destinations]
        if self.encoder.modality == "audio":
            needed += [utterance.audio_path for batch in unit.batches for utterance in batch]
        return next((path for path in needed if not path.exists()), None)

    def process(self) -> int:
        """Return the number of the actor's process."""
        return os.getpid()


def common_versions(modality: str) -> dict[str, str]:
    """Return the versions that must be equal on every machine; a build for CPU and one for CUDA are of one version."""
    versions = {"mervn": package_version("mervn")} | computing_versions(modality)
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _refuse_unreachable(address: str | None) -> None:
    """Raise InputError for a HOST:PORT where nothing answers: Ray itself would try for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():  # auto, or a cluster of its own
        return
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address must be a running cluster, but {address} does not answer: {error}") from error


def _with_absolute_path(utterance: Utterance) -> Utterance:
    return replace(utterance, audio_path=utterance.audio_path.absolute())


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own notice of a change to come
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "mervn[ray]"') from error
    return ray
