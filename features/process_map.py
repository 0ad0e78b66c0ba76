"""map_in_processes: applies work to items in several processes, with the results and the order of one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from itertools import cycle
from multiprocessing.connection import Connection, Pipe
from typing import Generic, TypeVar

from features.child_python import python_command

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
MAX_PROCESSES = 8
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

    `work`, items and results are pickled, and `work` gives the same result in each process. An item
    whose process cannot start, has ended or failed is computed in this one. If the items end with an
    OSError, it is raised after the results of those before. Close the iterator to end the processes.
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
        self._knows_work = False

    def __enter__(self) -> WorkProcess[ItemT, ResultT]:
        with suppress(OSError):
            self._start()
        return self

    def _start(self) -> None:
        self._connection, other = Pipe()
        with other:
            code = START.format(digits=sys.get_int_max_str_digits(), descriptor=other.fileno())
            self._process = subprocess.Popen(
                python_command(code), pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send(self) -> None:
        """Let the process compute the result of `pending`."""
        if self._connection is None:
            return
        with suppress(OSError):
            if not self._knows_work:  # now, because it may wait until the process reads, and so all are started before
                self._connection.send(self._work)
                self._knows_work = True
            self._connection.send(self.pending[0])

    def receive(self) -> ResultT:
        """Return the result of `pending`."""
        item = self.pending.pop()
        if self._connection is not None:
            with suppress(OSError, EOFError):
                found: ResultT = self._connection.recv()
                return found
        return self._work(item)


def serve(descriptor: int) -> None:
    """Compute the results of the items that come in on a connection, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to a whole process group; the other process ends this one
    with Connection(descriptor) as connection, suppress(EOFError):
        work = connection.recv()
        while True:
            connection.send(work(connection.recv()))
