"""Extraction on a Ray cluster: actors encode units and write their parts.

The driver holds the plan and the claims. It replaces an actor that dies and submits its unit again.
All machines must have the features folder and the audio under the same absolute paths, and the same
versions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from features.encoders.base import Encoder
from features.encoders.custom_encoder import absolute_name
from features.encoders.selector import Selector
from features.errors import InputError, UsageError
from features.extraction.ray_worker import Expected, RayWorker, Report, common_versions
from features.extraction.settings import ExtractSettings
from features.extraction.unit import Unit, UnitResult
from features.extraction.worker import Destination
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.ray_cluster import connect, import_ray
from features.store.identity import StoreIdentity

RETRIES = 3
"""Maximum number of times that a unit is submitted again after its actor died."""
PATIENCE_S = 10.0
"""Time after which a message says that actors are still starting."""


@dataclass(frozen=True)
class Actors:
    """Actors to start: their number, and the resources and device of each."""

    count: int
    resources: dict[str, float]
    """`num_cpus` or `num_gpus` of Ray."""
    device: str
    place: str
    """Description of the cluster, for people."""


class RayEngine:
    """Engine that runs units on Ray actors."""

    def __init__(
        self,
        encoder: Encoder,
        selector: Selector,
        settings: ExtractSettings,
        identities: Sequence[StoreIdentity],
        reporter: Reporter,
    ) -> None:
        self._ray = import_ray()
        self._started = connect(settings.ray_address, settings.workers or 1)
        actors = self._plan_actors(settings)
        self.capacity = actors.count
        self._actor = self._ray.remote(**actors.resources)(RayWorker)
        # actors run in other working directories, so relative paths must become absolute
        self._arguments = (
            replace(selector, name=absolute_name(selector), model=encoder.source.usable),
            replace(settings, features_dir=settings.features_dir.absolute(), device=actors.device),
            Expected(list(identities), common_versions(encoder.modality)),
        )
        self._running: dict[Any, tuple[Any, Unit]] = {}
        """By reference of the pending call, the actor and its unit."""
        self._deaths: Counter[str] = Counter()
        """By description of the work at which the actors died."""
        self._idle = [self._new_actor() for _ in range(self.capacity)]
        reporter.say(f"  {self.capacity} Ray actors, {actors.place}")
        try:
            reports = self._reports(reporter)
        except BaseException:
            self.close()
            raise
        self.device = torch.device(reports[0].device)
        self.default_budget = min(report.budget for report in reports)
        self._destinations: list[Destination] = []
        self._token = ""

    def _plan_actors(self, settings: ExtractSettings) -> Actors:
        """Divide the GPUs of the cluster among the actors, or its CPUs if it has none."""
        cluster = self._ray.cluster_resources()
        cpus, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
        cuda = settings.device.split(":")[0] == "cuda"
        if cuda and not gpus:
            raise UsageError(f"--device {settings.device} needs a GPU, but the Ray cluster has none; use --device cpu")
        if gpus and (cuda or settings.device == "auto"):
            count = settings.workers or gpus
            return Actors(count, {"num_gpus": min(1, gpus / count)}, "cuda", f"{gpus} GPUs")
        count = settings.workers or max(1, cpus // (settings.threads or 1))
        wanted = settings.threads or max(1, cpus // count)
        device = "cpu" if settings.device == "auto" else settings.device
        return Actors(count, {"num_cpus": min(cpus / count, wanted)}, device, f"{cpus} CPUs")

    def _new_actor(self) -> Any:
        return self._actor.remote(*self._arguments)

    def _reports(self, reporter: Reporter) -> list[Report]:
        """Wait until every actor has loaded the encoder.

        InputError if one cannot be used, or dies repeatedly.
        """
        # reference of the pending call -> actor
        waiting = {actor.report.remote(): actor for actor in self._idle}
        reports: list[Report] = []
        announced = False
        while waiting:
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=PATIENCE_S)
            if not ready and not announced:
                reporter.say(f"  waiting for {len(waiting)} of {self.capacity} actors to start")
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
        """Set the stores and the token of the temporary files."""
        self._destinations = []
        for destination in destinations:
            info = replace(destination.info, path=destination.info.path.absolute())
            self._destinations.append(replace(destination, info=info))
        self._token = token

    def submit(self, unit: Unit) -> None:
        """Start a unit on an idle actor."""
        batches = [list(map(_with_absolute_path, batch)) for batch in unit.batches]
        self._start_on(self._idle.pop(), replace(unit, batches=batches))

    def prepare(self, unit: Unit) -> None:
        """Do nothing: which actor will get the unit is not known."""

    def _start_on(self, actor: Any, unit: Unit) -> None:
        self._running[actor.encode.remote(unit, self._destinations, self._token)] = (actor, unit)

    def collect(self) -> list[UnitResult]:
        """Wait until a unit is done.

        InputError if an actor has a fault, or the actors of one unit die repeatedly.
        """
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
                    ids = ", ".join([utterance.utterance_id for utterance in unit.batches[0][:3]])
                    self._count_death(f"on the unit of {ids}, ...", error)
                    self._start_on(self._new_actor(), unit)
                else:
                    self._idle.append(actor)
        return results

    def _count_death(self, where: str, error: Exception) -> None:
        """Count the death of an actor; InputError if too many died at the same work.

        A death does not tell whether the unit or the machine caused it.
        """
        self._deaths[where] += 1
        if self._deaths[where] > RETRIES:
            raise InputError(
                f"an actor died {RETRIES + 1} times {where}: {str(error).splitlines()[0]}; "
                "finished work is kept, and the same command resumes"
            ) from error

    def close(self) -> None:
        """Stop the actors, and the cluster if this process started it."""
        for actor in self._idle:
            self._ray.kill(actor)
        for actor, _ in self._running.values():
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


def _with_absolute_path(utterance: Utterance) -> Utterance:
    return replace(utterance, audio_path=utterance.audio_path.absolute())
