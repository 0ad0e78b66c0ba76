"""SIGINT (Ctrl-C) and SIGTERM, handled between two steps of the work: never lost, never in the middle of a write.

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

    The same signal again raises at once. A different signal does not count as a second press: a
    launcher of several processes passes a Ctrl-C, which they already received, on as a SIGTERM.
    Signals that the process ignores stay ignored. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _received.clear()
    try:
        for number, handler in before.items():
            if handler is signal.default_int_handler:
                signal.signal(number, _receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
    if number in _received:
        signal.default_int_handler(number, frame)
    _received.add(number)
