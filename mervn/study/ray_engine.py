"""Cells of a study on a Ray cluster, each a task.

All machines must have the current folder, the data, the features and the folder of the study under
the same absolute paths, and the same versions.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from features.cpu_threads import set_threads
from features.environment import package_versions
from features.errors import InputError, UsageError
from features.progress import Reporter
from features.ray_cluster import connect, import_ray
from mervn.study.cell_worker import CellTrainer, Outcome
from mervn.study.cells import Cell

RETRIES = 1
"""Number of times that Ray starts a cell again whose process died, perhaps with its machine."""


@dataclass(frozen=True)
class Place:
    """Folders and versions that every machine must have, and the settings of its cells."""

    current: Path
    """Current folder of the command: options of cells can have relative paths."""
    data: Path
    output: Path
    """Folder of the study."""
    threads: int
    """Number of CPU threads of a cell."""
    device: str
    """cpu or cuda, which is that of the machine of the command."""
    versions: Mapping[str, str]


class RayEngine:
    """Engine that trains cells as tasks on a Ray cluster."""

    def __init__(self, place: Place, address: str | None, jobs: int | None, reporter: Reporter) -> None:
        """Connect to the cluster at `address`, or start one; None `jobs` uses all of it.

        UsageError if the cells need GPUs and the cluster has none.
        """
        self._ray, self._place = import_ray(), place
        self._running: dict[Any, Cell] = {}
        """By reference of a task, its cell."""
        self._started = connect(address, (jobs or 1) * place.threads)
        cluster = self._ray.cluster_resources()
        cpus, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
        resources: dict[str, float] = {"num_cpus": place.threads}
        if place.device == "cpu":
            self.jobs = jobs or max(1, cpus // place.threads)
        elif gpus:
            self.jobs = jobs or gpus
            resources = {"num_gpus": min(1.0, gpus / self.jobs)}
        else:
            self.close()
            raise UsageError("--device cuda needs a GPU, but the Ray cluster has none; use --device cpu")
        self._task = self._ray.remote(**resources, max_retries=RETRIES)(train_cell)
        reporter.say(f"Ray cluster: {cpus} CPUs and {gpus} GPUs, at most {self.jobs} at a time")

    def run(self, cells: Sequence[Cell], report: Callable[[Outcome], None]) -> None:
        """Train cells and report the outcome of each, in the order in which they end.

        InputError if a machine cannot be used.
        """
        waiting = list(reversed(cells))
        while waiting or self._running:
            while waiting and len(self._running) < self.jobs:
                cell = waiting.pop()
                reference = self._task.remote(self._place, cell.name, cell.as_json(), cell.features)
                self._running[reference] = cell
            ready, _ = self._ray.wait(list(self._running), num_returns=1)
            for reference in ready:
                report(self._outcome(reference, self._running.pop(reference)))

    def _outcome(self, reference: Any, cell: Cell) -> Outcome:
        """Return the outcome of a task that has ended."""
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from error
            raise
        except self._ray.exceptions.RayError as error:
            return Outcome(cell.name, f"its process ended: {str(error).strip().splitlines()[0]}")
        return outcome

    def close(self) -> None:
        """Cancel the tasks, and stop the cluster if this process started it."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._started:
            self._ray.shutdown()


def make_place(data: Path, output: Path, threads: int, device: str) -> Place:
    """Return the place of this machine, with absolute paths."""
    return Place(Path.cwd(), data.absolute(), output.absolute(), threads, device, _versions())


def train_cell(place: Place, name: str, options: Mapping[str, Any], features: str) -> Outcome:
    """Train a cell in a process of Ray; InputError if its machine cannot be used."""
    refuse_machine(place)
    os.chdir(place.current)
    set_threads(place.threads)
    return _trainer(place.data).attempt(name, {**options, "device": place.device}, features)


def refuse_machine(place: Place) -> None:
    """Raise InputError if this machine lacks a folder or has other versions than that of the command."""
    node = platform.node()
    for folder in (place.current, place.data, place.output):
        if not folder.is_dir():
            raise InputError(f"{folder} must exist on every machine of the cluster, but does not on {node}")
    found = _versions()
    differing = []
    for name, version in place.versions.items():
        if found.get(name) != version:
            differing.append(f"{name} {found.get(name)} for {version}")
    if differing:
        raise InputError(
            f"every machine of the cluster must have the same versions, but {node} has {', '.join(differing)}"
        )


def _versions() -> dict[str, str]:
    """Return the versions of Python and the packages; CPU and CUDA builds count as the same."""
    return {name: version.partition("+")[0] for name, version in package_versions().items()}


@lru_cache(maxsize=1)
def _trainer(data: Path) -> CellTrainer:
    """Return the trainer of this process, which keeps the features open between cells."""
    return CellTrainer(data)
