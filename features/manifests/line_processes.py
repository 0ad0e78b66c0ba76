"""Parses the lines of a large manifest in several processes, with the result of one.

Python parses one line at a time per process, and a million lines take it 10 to 20 s.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import cycle
from multiprocessing.connection import Connection, Pipe

from features.child_python import python_command
from features.cpu_threads import usable_cores
from features.manifests.parsed_lines import ParsedLines

MIN_BYTES = 16 << 20
"""Size of a file from which processes save more time than they take to start."""
MAX_PROCESSES = 8
START = """
sys.set_int_max_str_digits({digits})
from features.manifests.line_processes import serve
serve({descriptor})
"""
"""Code of a process."""


def parse_blocks(blocks: Iterator[bytes], parsed: ParsedLines, num_bytes: int) -> None:
    """Add blocks of whole lines to what the lines before gave; `num_bytes` are those of the file."""
    count = min(usable_cores(), MAX_PROCESSES)
    if num_bytes < MIN_BYTES or count == 1:
        for block in blocks:
            parsed.parse(block)
        return
    fault: OSError | None = None
    with ExitStack() as stack:
        processes = [stack.enter_context(LineProcess(parsed)) for _ in range(count)]
        for process in cycle(processes):  # a process has one block, and the blocks are added in their order
            if process.is_busy:
                parsed.extend(process.receive())
            try:
                following = next(blocks, None)
            except OSError as error:  # what was read counts
                fault, following = error, None
            if following is not None:
                process.send(following)
            elif not any(each.is_busy for each in processes):
                break
    if fault is not None:
        raise fault


class LineProcess:
    """A process that parses one block at a time.

    If it cannot start or has ended, this process parses the block.
    """

    def __init__(self, before: ParsedLines) -> None:
        self._before = before
        self._block: bytes | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> LineProcess:
        with suppress(OSError):
            self._start()
            self._send(self._before.like())
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

    @property
    def is_busy(self) -> bool:
        """True if a block was sent and its result was not received."""
        return self._block is not None

    def send(self, block: bytes) -> None:
        """Let the process parse a block."""
        self._block = block
        with suppress(OSError):
            self._send(block)

    def receive(self) -> ParsedLines:
        """Return the result of the block that was sent."""
        block, self._block = self._block, None
        if self._connection is not None:
            with suppress(OSError, EOFError):
                found: ParsedLines = self._connection.recv()
                return found
        parsed = self._before.like()
        parsed.parse(block or b"")
        return parsed

    def _send(self, message: object) -> None:
        if self._connection is not None:
            self._connection.send(message)


def serve(descriptor: int) -> None:
    """Parse the blocks that come in on a connection, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to a whole process group; the other process ends this one
    with Connection(descriptor) as connection, suppress(EOFError):
        before: ParsedLines = connection.recv()
        while True:
            parsed = before.like()
            parsed.parse(connection.recv())
            parsed.columns.complete()
            connection.send(parsed)
