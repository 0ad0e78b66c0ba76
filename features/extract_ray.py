"""Extraction on a Ray cluster: actors load the encoder once and own the parts they write.

The driver keeps the plan and the claims; an actor that dies is started again, and its unit is given out anew. The
features folder must be one that every machine sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from features.encode import resolve_device
from features.encoders.selector import Selector
from features.errors import InputError
from features.store.identity import STORE_FILE, canonical_json
from features.work import Destination, Unit, UnitResult, Worker

if TYPE_CHECKING:
    from features.extract import ExtractSettings

RETRIES = 3
"""How often an actor is started again, and a unit given out again, before the extraction fails."""


class RayEngine:
    """Hands units to actors."""

    def __init__(
        self,
        selector: Selector,
        settings: ExtractSettings,
        destinations: Sequence[Destination],
        token: str,
        identities: Sequence[Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._ray = _import_ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._start(settings)
        self.capacity, resources, place = self._resources(settings)
        actor = self._ray.remote(**resources, max_restarts=RETRIES, max_task_retries=RETRIES)(RayWorker)
        arguments = (selector, settings, list(destinations), token, [dict(identity) for identity in identities])
        self._idle = [actor.remote(*arguments) for _ in range(self.capacity)]
        self._running: dict[Any, tuple[Any, Unit]] = {}
        say(f"  {self.capacity} Ray actors, {place}")

    def _start(self, settings: ExtractSettings) -> None:
        local: dict[str, Any] = {"num_cpus": max(settings.workers or 1, os.cpu_count() or 1)}
        try:
            self._ray.init(
                address=settings.ray_address, include_dashboard=False, log_to_driver=False,
                logging_level="error", **({} if settings.ray_address else local),
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray-address must be a cluster, found {settings.ray_address}: {error}") from error

    def _resources(self, settings: ExtractSettings) -> tuple[int, dict[str, Any], str]:
        """Return how many actors there will be, what each asks Ray for, and that in words."""
        cluster = self._ray.cluster_resources()
        cpus, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
        if gpus and settings.device in ("auto", "cuda"):
            count = settings.workers or gpus
            return count, {"num_gpus": gpus / count if count > gpus else 1}, f"{gpus} GPUs"
        count = settings.workers or max(1, cpus // (settings.threads or 1))
        return count, {"num_cpus": min(cpus / count, settings.threads or max(1, cpus // count))}, f"{cpus} CPUs"

    def submit(self, unit: Unit) -> None:
        """Give a unit to an idle actor."""
        actor = self._idle.pop()
        self._running[actor.encode.remote(unit)] = (actor, unit)

    def collect(self) -> list[UnitResult]:
        """Wait for the next actor to finish; InputError if an actor failed or kept dying."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1)
        results = []
        for reference in ready:
            actor, unit = self._running.pop(reference)
            self._idle.append(actor)
            try:
                results.append(self._ray.get(reference))
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from error
                raise
            except self._ray.exceptions.RayActorError as error:
                ids = ", ".join(utterance.utterance_id for utterance in unit.batches[0][:3])
                raise InputError(
                    f"an actor died {RETRIES + 1} times on the unit of {ids}, ...: {str(error).splitlines()[0]}; what "
                    "was finished is kept, and the same command goes on"
                ) from error
        return results

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


class RayWorker:
    """What an actor is: a worker with its own encoder."""

    def __init__(
        self,
        selector: Selector,
        settings: ExtractSettings,
        destinations: list[Destination],
        token: str,
        identities: list[dict[str, Any]],
    ) -> None:
        import torch

        from features.extract import open_encoder, store_identity

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._fault: str | None = None
        for to in destinations:
            if not (to.info.path / STORE_FILE).is_file():
                self._fault = (
                    f"every machine of the cluster must see {to.info.path}, but {os.uname().nodename} does not"
                )
                return
        encoder = open_encoder(selector, settings)
        found = [store_identity(encoder, selector, layer, settings) for layer in encoder.layers]
        if canonical_json(found) != canonical_json(identities):
            self._fault = (
                f"{selector} must be the same encoder on every machine, but is another on {os.uname().nodename}"
            )
            return
        self._worker = Worker(encoder, resolve_device(settings.device), settings.encoder_precision, destinations, token)

    def encode(self, unit: Unit) -> UnitResult:
        """Encode a unit and commit its rows."""
        if self._fault:
            raise InputError(self._fault)
        return self._worker.encode(unit)

    def process(self) -> int:
        """Return the number of the actor's process."""
        return os.getpid()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own notice of a change to come
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "mervn[ray]"') from error
    return ray
