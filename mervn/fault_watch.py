"""Fault watch for several processes: an error in one of them ends all of them.

A process that waits for the others in torch.distributed waits in C++, where no Python
exception can reach it. Each process therefore runs a thread that looks for faults of the
others, prints them and ends the process. Files are written atomically, so that ending a
process at any moment leaves them intact.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from torch import distributed
from torch._C._distributed_c10d import TCPStore

from features.errors import InputError

FAULT, HEARD, ALIVE = "fault", "heard", "alive"
"""Keys in the TCP store: the message of the first fault, the number of processes that have read it,
and, followed by a rank, a counter that grows while that process runs."""
LOST = re.compile("connection (closed|reset) by peer|broken pipe", re.IGNORECASE)
"""Errors of gloo in a process whose peer has ended."""
INTERVAL_S = 0.25
"""Interval between two checks for a fault."""
PATIENCE_S = 5.0
"""Maximum time that a process waits for the others to read its message."""
SILENCE_S = 8 * INTERVAL_S
"""A process whose counter does not grow for this time has ended."""


class FaultWatch:
    """Announces this process's fault to the others, and ends this process on a fault of another."""

    def __init__(self, process_index: int, num_processes: int, control: Any) -> None:
        self.process_index, self.num_processes = process_index, num_processes
        host = os.environ.get("MASTER_ADDR", "localhost")
        timeout = timedelta(seconds=60)
        port: list[Any] = [None]
        if process_index == 0:
            # port 0: the system chooses a free one, which the other processes are then told
            self._server = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
            port[0] = self._server.port
        distributed.broadcast_object_list(port, 0, control)
        self._store = TCPStore(host, port[0], is_master=False, timeout=timeout)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="fault-watch")
        self._thread.start()

    def cause_of(self, error: BaseException) -> BaseException:
        """Return the error that explains a lost connection; any other error as it is.

        The cause is the fault of another process, or a process that was killed and could announce
        none.
        """
        if not (isinstance(error, RuntimeError) and LOST.search(str(error))):
            return error
        try:
            if self._store.check([FAULT]):
                rank, _, message = self._store.get(FAULT).decode().partition("\n")
                return InputError(f"process {rank} of {self.num_processes} failed: {message}")
            before = self._counters()
            time.sleep(SILENCE_S)
            after = self._counters()
        except (RuntimeError, OSError):
            ended = [0]  # the main process, which runs the TCP store
        else:
            others = filter(lambda rank: rank != self.process_index, range(self.num_processes))
            ended = [rank for rank in others if before[rank] == after[rank]]
        if not ended:
            return error
        return InputError(
            f"process {ended[0]} of {self.num_processes} ended without a message: the system may have killed it, "
            "for example because the memory was full. Run the same command again to resume"
        )

    def _counters(self) -> list[int]:
        """Return the counter of each process."""
        return [self._store.add(f"{ALIVE}{rank}", 0) for rank in range(self.num_processes)]

    def announce(self, error: BaseException) -> None:
        """Announce this process's fault, unless another one came first.

        Waits until the other processes have read it, at most PATIENCE_S.
        """
        self.close()
        try:
            first = self._store.compare_set(FAULT, "", f"{self.process_index}\n{describe(error)}").decode()
            if first.partition("\n")[0] == str(self.process_index):
                self._wait_for_readers()
            else:
                self._store.add(HEARD, 1)
        except (RuntimeError, OSError):
            return  # the main process, which runs the TCP store, has already ended

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join(timeout=PATIENCE_S)

    def _wait_for_readers(self) -> None:
        """Wait until all other processes have read the message, at most PATIENCE_S."""
        deadline = time.monotonic() + PATIENCE_S
        while self._store.add(HEARD, 0) < self.num_processes - 1 and time.monotonic() < deadline:
            time.sleep(INTERVAL_S)

    def _watch(self) -> None:
        """Look for a fault of another process until `close`."""
        try:
            while not self._stopped.wait(INTERVAL_S):
                self._store.add(f"{ALIVE}{self.process_index}", 1)
                if self._store.check([FAULT]):
                    rank, _, message = self._store.get(FAULT).decode().partition("\n")
                    self._store.add(HEARD, 1)
                    if self.process_index == 0:
                        # rank 0 runs the TCP store: the others must read the message first
                        self._wait_for_readers()
                        time.sleep(2 * INTERVAL_S)
                    self._end(f"error: process {rank} of {self.num_processes} failed: {message}")
        except (RuntimeError, OSError):
            return  # the main process has ended: torch.distributed raises in those that wait for it

    def _end(self, message: str) -> None:
        """Print a message and end the process at once: the main thread may be waiting in C++."""
        sys.stdout.flush()
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
        os._exit(1)


def describe(error: BaseException) -> str:
    """Return the text that shows an error without a traceback.

    It is the type and the message; for an error that this project raises, only the message.
    """
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def portable(error: BaseException) -> BaseException:
    """Return the error itself if it can be pickled for another process, else a RuntimeError."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # a class may raise anything when it is pickled or unpickled
        return RuntimeError(describe(error))
    return error if type(copy) is type(error) else RuntimeError(describe(error))
