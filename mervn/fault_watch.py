"""Faults of several processes: an error of one ends all of them with its message, and none waits for ever.

A process that waits for the others in torch.distributed waits in C++, where no Python exception reaches it. So each has
a thread that looks for a fault of another, prints it and ends the process; what is on disk is whole at any moment.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from torch import distributed
from torch._C._distributed_c10d import TCPStore

from features.errors import InputError

FAULT, HEARD = "fault", "heard"
INTERVAL_S = 0.25
"""Between two looks."""
PATIENCE_S = 5.0
"""How long the main process, which keeps the message, waits for the others to read it."""


class FaultWatch:
    """Tells the other processes of this one's fault, and ends this one on a fault of another."""

    def __init__(self, rank: int, size: int, control: Any) -> None:
        self.rank, self.size = rank, size
        host = os.environ.get("MASTER_ADDR", "localhost")
        timeout = timedelta(seconds=60)
        place: list[Any] = [None]
        if rank == 0:
            self._keeper = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
            place[0] = self._keeper.port
        distributed.broadcast_object_list(place, 0, control)
        self._store = TCPStore(host, place[0], is_master=False, timeout=timeout)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="fault-watch")
        self._thread.start()

    def announce(self, error: BaseException) -> None:
        """Tell the others of this process's fault, if no other fault came first, and wait until they know."""
        self.close()
        try:
            told = self._store.compare_set(FAULT, "", f"{self.rank}\n{describe(error)}").decode()
            if told.partition("\n")[0] == str(self.rank):
                self._wait_until_heard()
            else:
                self._store.add(HEARD, 1)
        except (RuntimeError, OSError):
            return  # the main process, which keeps the message, has ended already

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join(timeout=PATIENCE_S)

    def _wait_until_heard(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._store.add(HEARD, 0) < self.size - 1 and time.monotonic() < deadline:
            time.sleep(INTERVAL_S)

    def _watch(self) -> None:
        try:
            while not self._over.wait(INTERVAL_S):
                if self._store.check([FAULT]):
                    rank, _, message = self._store.get(FAULT).decode().partition("\n")
                    self._store.add(HEARD, 1)
                    if self.rank == 0:  # whose end takes the message from those that have not read it
                        self._wait_until_heard()
                        time.sleep(2 * INTERVAL_S)
                    self._end(f"error: process {rank} of {self.size} failed: {message}")
        except (RuntimeError, OSError):
            return  # the main process has ended; torch.distributed tells those that wait for it

    def _end(self, message: str) -> None:
        sys.stdout.flush()
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
        os._exit(1)


def describe(error: BaseException) -> str:
    """Return an error for people who see no traceback: its type, unless its message is written for them."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def portable(error: BaseException) -> BaseException:
    """Return an error that another process can raise: itself if it can be pickled, else a RuntimeError."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's class does when it is pickled or made again
        return RuntimeError(describe(error))
    return error if type(copy) is type(error) else RuntimeError(describe(error))
