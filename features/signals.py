"""Ctrl-C and a cluster's SIGTERM, heard between two steps of the work: never lost, never in the middle of a write.

Python raises KeyboardInterrupt wherever it happens to be. Where that is the callback of a weak reference or a
destructor, the exception is printed and gone, and the work goes on as if nobody had asked it to stop.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_heard: set[int] = set()


@contextmanager
def interruptible() -> Iterator[None]:
    """While entered, a signal makes the next `check_interrupted` raise KeyboardInterrupt; once more, at once.

    Another is not impatience: a launcher of several processes passes a Ctrl-C, which they had, on as a SIGTERM.
    A signal that the process ignores stays ignored. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _heard.clear()
    try:
        for number, handler in before.items():
            if handler is signal.default_int_handler:
                signal.signal(number, _hear)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    check_interrupted()


def interrupted() -> bool:
    """Tell whether a signal came."""
    return bool(_heard)


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal came."""
    if interrupted():
        interrupt()


def interrupt() -> None:
    """Raise KeyboardInterrupt, and have the signal, if there was one, be heard."""
    _heard.clear()
    raise KeyboardInterrupt


def _hear(number: int, frame: FrameType | None) -> None:
    if number in _heard:
        signal.default_int_handler(number, frame)
    _heard.add(number)
