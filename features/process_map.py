"""map_in_processes: applies work to items in several processes, with the results and the order of one."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from itertools import cycle
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

from features.child_python import python_command
from features.signals import check_interrupted

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
MAX_PROCESSES = 8
START_LIMIT_S = 120.0
"""Seconds within which a process must be ready to work."""
POLL_S = 0.2
"""Seconds between two looks for Ctrl-C."""
START = """
sys.set_int_max_str_digits({digits})
from features.process_map import serve
serve({descriptor})
"""
"""Code of a process."""


def map_in_processes(
    work: Callable[[ItemT], ResultT], items: Iterator[ItemT], count: int
) -> Generator[ResultT, None, None]:
    """Yield `work(item)` of each item, computed in `count` processes that have one item each.

    `work`, items and results are pickled; `work` must be small, and give the same result in each
    process. An item whose process cannot start, has ended or failed is computed in this one. If the
    items end with an OSError, it is raised after the results of those before. Close the iterator to
    end the processes.
    """
    fault: OSError | None = None
    with ExitStack() as stack:
        processes = [stack.enter_context(WorkProcess(work)) for _ in range(count)]
        for process in cycle(processes):
            if process.pending:
                yield process.receive()
            try:
                process.pending = [next(items)]
            except StopIteration:
                pass
            except OSError as error:
                fault = error
            if process.pending:
                process.send()
            elif not any(each.pending for each in processes):
                break
    if fault is not None:
        raise fault


class WorkProcess(Generic[ItemT, ResultT]):
    """A process that computes one result at a time; this process does it if the other cannot."""

    def __init__(self, work: Callable[[ItemT], ResultT]) -> None:
        self._work = work
        self.pending: list[ItemT] = []
        """The item that was sent and whose result was not received, if any."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._is_ready = False

    def __enter__(self) -> WorkProcess[ItemT, ResultT]:
        try:
            self._start()
        except OSError:
            pass
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self._connection, other = Pipe()
        with other:
            code = START.format(digits=sys.get_int_max_str_digits(), descriptor=other.fileno())
            self._process = subprocess.Popen(
                python_command(code), pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._connection.send(self._work)

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send(self) -> None:
        """Let the process compute the result of `pending`."""
        if not self._is_ready:
            self._is_ready = bool(self._answer(START_LIMIT_S))
            if not self._is_ready:  # and sending a large item would wait for it
                self.__exit__()
                self._connection = None
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(self.pending[0])

    def receive(self) -> ResultT:
        """Return the result of `pending`."""
        item, found = self.pending.pop(), self._answer()
        return found[0] if found else self._work(item)

    def _answer(self, limit_s: float = math.inf) -> list[Any]:
        """Return the next message of the process, a list of one; nothing if it has ended, or sends none in time."""
        begun = time.monotonic()
        try:
            while self._connection is not None and time.monotonic() - begun < limit_s:
                check_interrupted()
                if self._connection.poll(POLL_S):
                    return list(self._connection.recv())
        except (OSError, EOFError):
            pass
        return []


def serve(descriptor: int) -> None:
    """Compute the results of the items that come in on a connection, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to a whole process group; the other process ends this one
    with Connection(descriptor) as connection, suppress(EOFError):
        work = connection.recv()
        connection.send(["ready"])
        while True:
            connection.send([work(connection.recv())])
