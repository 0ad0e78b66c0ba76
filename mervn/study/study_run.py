"""Runs the cells of a study in several processes, and keeps the state of each cell."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from features.atomic_files import read_object, write_json
from features.cpu_threads import set_threads
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

    @classmethod
    def open(cls, output: Path, grid: Mapping[str, Any], cells: Sequence[Cell], *, retry: bool) -> State:
        """Read the state of the folder; with `retry`, forget the errors."""
        path = output / STATE_FILE
        failed: dict[str, str] = {}
        if path.is_file() and not retry:
            known = read_object(path, "the state of a study").get("failed")
            if not isinstance(known, dict):
                raise InputError(f"{path} must hold the failed cells of a study, found {known!r}; remove the file")
            failed = {str(name): str(error) for name, error in known.items()}
        names = [cell.name for cell in cells]
        state = cls(path, grid, {name: failed[name] for name in names if name in failed})
        state.cells = {name: "failed" if name in failed else "waiting" for name in names}
        state.save()
        return state

    def complete(self, name: str) -> None:
        """Note that a cell is complete."""
        self.cells[name] = "complete"
        self.failed.pop(name, None)

    def fail(self, name: str, error: str) -> None:
        """Note that a cell failed."""
        self.cells[name], self.failed[name] = "failed", error

    def save(self) -> None:
        """Write state.json."""
        document = {"schema": SCHEMA, "grid": dict(self.grid), "cells": self.cells, "failed": self.failed}
        write_json(self.path, document)


def default_jobs(on_gpu: bool) -> int:
    """Return the number of processes: one per core that this process may use; one on a GPU."""
    if on_gpu:
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def run_cells(cells: Sequence[Cell], place: Workplace, report: Callable[[Outcome], None]) -> None:
    """Train cells and report the outcome of each.

    A cell that fails, or whose process dies, does not stop the others. KeyboardInterrupt stops all
    processes first.
    """
    if place.jobs == 1 or len(cells) < 2:
        set_threads(place.threads)
        trainer = CellTrainer(place.data)
        for cell in cells:
            report(trainer.attempt(cell.name, cell.as_json(), cell.features))
        return
    pool = _Pool(cells, place)
    try:
        for _ in cells:
            outcome = pool.outcomes.get()
            if outcome.interrupted:
                raise KeyboardInterrupt
            report(outcome)
    finally:
        pool.stop()


class _Pool:
    """Processes that take cells from one queue, each served by a thread."""

    def __init__(self, cells: Sequence[Cell], place: Workplace) -> None:
        self.place, self.waiting = place, deque(cells)
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._stopped, self._lock = False, threading.Lock()
        self._threads = []
        for number in range(1, min(place.jobs, len(cells)) + 1):
            thread = threading.Thread(target=self._serve, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, number: int) -> None:
        """Give cells to one process until none is left; start another if it dies."""
        process: subprocess.Popen[str] | None = None
        while True:
            try:
                cell = self.waiting.popleft()
            except IndexError:
                break
            try:
                process = process or self._start(number)
                outcome = _ask(process, cell) if process is not None else Outcome(cell.name, interrupted=True)
            except OSError as error:
                outcome = Outcome(cell.name, f"its process could not be started: {error}")
            if outcome.error is not None and process is not None and process.poll() is not None:
                _close(process.stdin)
                _close(process.stdout)
                process = None
            self.outcomes.put(outcome)
        if process is not None and process.stdin is not None:
            process.stdin.close()  # the process then ends

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

    def stop(self) -> None:
        """End all processes; one that is busy is interrupted."""
        self.waiting.clear()
        with self._lock:
            self._stopped = True
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
