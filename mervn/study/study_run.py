"""Runs the cells of a study in several processes, and keeps the state of each cell."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from features.atomic_files import read_object, write_json
from features.cpu_threads import set_threads, usable_cores
from features.errors import InputError
from mervn.study.cell_worker import INTERRUPTED, CellTrainer, Outcome
from mervn.study.cells import Cell

STATE_FILE, LOGS_FOLDER = "state.json", "logs"
SCHEMA = 1
PATIENCE_S = 10.0
"""Seconds that interrupted processes have to end before they are killed."""
_STARTER = "from mervn.study.cell_worker import main; main()"


@dataclass
class State:
    """state.json of a study: the grid, and the error of each cell that failed.

    A cell is complete if its run folder is, so no crash can make the two differ.
    """

    path: Path
    grid: Mapping[str, Any]
    failed: dict[str, str] = field(default_factory=dict)
    """The error of each failed cell, by name."""
    cells: dict[str, str] = field(default_factory=dict)
    """`complete`, `failed` or `waiting`, by name of the cell."""
    earlier_grid: Mapping[str, Any] = field(default_factory=dict)
    """The grid of the earlier command; empty if there was none."""
    _earlier: dict[str, str] = field(default_factory=dict)
    """Errors of an earlier command, of cells that were not added yet."""

    @classmethod
    def open(cls, output: Path, grid: Mapping[str, Any], *, retry: bool) -> State:
        """Read the state of the folder, without its cells; with `retry`, forget the errors."""
        path = output / STATE_FILE
        if retry or not path.is_file():
            return cls(path, grid)
        document = read_object(path, "the state of a study")
        known, earlier = document.get("failed"), document.get("grid")
        if not isinstance(known, dict):
            raise InputError(f"{path} must hold the failed cells of a study, found {known!r}; remove the file")
        failed = {str(name): str(error) for name, error in known.items()}
        return cls(path, grid, earlier_grid=earlier if isinstance(earlier, dict) else {}, _earlier=failed)

    def add(self, cells: Iterable[Cell]) -> None:
        """Add cells; each is waiting, or has failed in an earlier command."""
        for cell in cells:
            if cell.name in self._earlier:
                self.fail(cell.name, self._earlier.pop(cell.name))
            self.cells.setdefault(cell.name, "waiting")

    def forget_others(self) -> None:
        """Forget the errors of cells that are not in this study any more."""
        self._earlier.clear()

    def complete(self, name: str) -> None:
        """Note that a cell is complete."""
        self.cells[name] = "complete"
        self.failed.pop(name, None)

    def completed(self) -> frozenset[str]:
        """Return the names of the complete cells."""
        return frozenset(name for name, status in self.cells.items() if status == "complete")

    def fail(self, name: str, error: str) -> None:
        """Note that a cell failed."""
        self.cells[name], self.failed[name] = "failed", error

    def save(self) -> None:
        """Write state.json."""
        failed = {**self._earlier, **self.failed}
        write_json(self.path, {"schema": SCHEMA, "grid": dict(self.grid), "cells": self.cells, "failed": failed})


def default_jobs(on_gpu: bool) -> int:
    """Return the number of processes: one per core that this process may use; one on a GPU."""
    return 1 if on_gpu else usable_cores()


@dataclass(frozen=True)
class Workplace:
    """Data, processes and threads with which cells are trained."""

    data: Path
    jobs: int
    """Number of processes; with 1, this process trains the cells."""
    threads: int
    """Number of CPU threads of each process."""
    logs: Path
    """Folder for what the processes print."""


class Engine(Protocol):
    """Trains cells, several at once."""

    jobs: int
    """Number of cells at once."""

    def run(self, cells: Sequence[Cell], report: Callable[[Outcome], None]) -> None:
        """Train cells and report the outcome of each, in the order in which they end.

        A cell that fails, or whose process dies, does not stop the others.
        """

    def close(self) -> None:
        """Stop all processes; one that is busy is interrupted."""


def local_engine(place: Workplace) -> Engine:
    """Return the engine of this machine: this process for one job, else several processes."""
    return OneProcess(place) if place.jobs == 1 else ProcessPool(place)


class OneProcess:
    """Engine that trains the cells in this process, one after the other."""

    def __init__(self, place: Workplace) -> None:
        self.jobs = 1
        set_threads(place.threads)
        self._trainer = CellTrainer(place.data)

    def run(self, cells: Sequence[Cell], report: Callable[[Outcome], None]) -> None:
        """Train cells and report the outcome of each."""
        for cell in cells:
            report(self._trainer.attempt(cell.name, cell.as_json(), cell.features))

    def close(self) -> None:
        """Do nothing; there are no other processes."""


class ProcessPool:
    """Engine with processes that take cells from one queue, each served by a thread."""

    def __init__(self, place: Workplace) -> None:
        self.place, self.jobs = place, place.jobs
        self._waiting: queue.SimpleQueue[Cell | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._stopped, self._lock = False, threading.Lock()
        self._threads: list[threading.Thread] = []

    def run(self, cells: Sequence[Cell], report: Callable[[Outcome], None]) -> None:
        """Train cells and report the outcome of each, in the order in which they end.

        KeyboardInterrupt if a process was interrupted.
        """
        for cell in cells:
            self._waiting.put(cell)
        while len(self._threads) < min(self.jobs, len(cells)):
            thread = threading.Thread(target=self._serve, args=(len(self._threads) + 1,), daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in cells:
            outcome = self._outcomes.get()
            if outcome.interrupted:
                raise KeyboardInterrupt
            report(outcome)

    def _serve(self, number: int) -> None:
        """Give cells to one process until the pool is closed; start another if it dies."""
        process: subprocess.Popen[str] | None = None
        while (cell := self._waiting.get()) is not None:
            try:
                process = process or self._start(number)
                outcome = _ask(process, cell) if process is not None else Outcome(cell.name, interrupted=True)
            except OSError as error:
                outcome = Outcome(cell.name, f"its process could not be started: {error}")
            if outcome.error is not None and process is not None and process.poll() is not None:
                _close(process.stdin)
                _close(process.stdout)
                process = None
            self._outcomes.put(outcome)

    def _start(self, number: int) -> subprocess.Popen[str] | None:
        """Start a process; None if the pool was stopped."""
        self.place.logs.mkdir(parents=True, exist_ok=True)
        paths = [path or str(Path.cwd()) for path in sys.path]
        one_thread = {"OMP_NUM_THREADS": str(self.place.threads)}  # before torch is imported, which reads it once
        environment = {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-c", _STARTER, str(self.place.data), str(self.place.threads)]
        with self._lock, (self.place.logs / f"process-{number}.log").open("a", encoding="utf-8") as log:
            if self._stopped:
                return None
            self._processes[number] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, encoding="utf-8"
            )
            return self._processes[number]

    def close(self) -> None:
        """End all processes; one that is busy is interrupted."""
        with self._lock:
            self._stopped = True
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        busy = list(self._processes.values())
        for process in busy:
            # not the signal of Ctrl-C, which the process may have received already
            process.send_signal(signal.SIGTERM)
        for process in busy:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for process in busy:
            _close(process.stdin)
            _close(process.stdout)


def _close(pipe: IO[str] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass  # what was not sent is not needed any more


def _ask(process: subprocess.Popen[str], cell: Cell) -> Outcome:
    """Let a process train a cell and return the outcome."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("a process of a study must have pipes")
    line = ""
    try:
        request = {"name": cell.name, "options": cell.as_json(), "features": cell.features}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        pass  # the process has ended
    if line:
        found = json.loads(line)
        return Outcome(found["name"], found["error"], tuple(found["warnings"]), found["interrupted"])
    code = process.wait()
    if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        return Outcome(cell.name, interrupted=True)
    return Outcome(cell.name, f"its process ended with {_name_of(code)}")


def _name_of(code: int) -> str:
    """Return an exit code as text."""
    if code == -signal.SIGKILL:
        return "SIGKILL; if the memory was full, use fewer --jobs"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}; see logs/"
