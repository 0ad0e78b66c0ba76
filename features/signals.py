"""SIGINT (Ctrl-C) and SIGTERM, handled between two steps: never lost, never during a write.

By default Python raises KeyboardInterrupt at any bytecode. In a destructor or the callback of a
weak reference the exception is only printed, and the program continues as if no signal had come.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: set[int] = set()


@contextmanager
def interruptible() -> Iterator[None]:
    """Defer signals: the next `check_interrupted` raises KeyboardInterrupt.

    If the same signal comes again, it raises at once. A different signal does not count as a second
    press: a launcher of several processes sends them a SIGTERM after a Ctrl-C that they already
    received. Signals that the process ignores stay ignored. Outside the main thread nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[signal.Signals] = []
    _received.clear()
    try:
        for number in SIGNALS:
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, _receive)
                deferred.append(number)
        yield
    finally:
        for number in deferred:
            signal.signal(number, signal.default_int_handler)
    check_interrupted()


def interrupted() -> bool:
    """Tell whether a signal was received."""
    return bool(_received)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal was received."""
    if interrupted():
        interrupt()


def interrupt() -> None:
    """Raise KeyboardInterrupt and forget the signals received so far."""
    _received.clear()
    raise KeyboardInterrupt


def _receive(number: int, frame: FrameType | None) -> None:
    """Handle a signal: remember it, or raise KeyboardInterrupt if it came before."""
    if number in _received:
        signal.default_int_handler(number, frame)
    _received.add(number)
