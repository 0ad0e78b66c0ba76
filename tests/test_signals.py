"""Ctrl-C is handled wherever it comes, and exactly once."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Iterator

import pytest

from features.signals import check_interrupted, interrupted, interruptible


@pytest.fixture(autouse=True)
def received() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Something that a weak reference can see go."""


def go_while_a_signal_comes() -> None:
    thing = Thing()
    watched = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert watched() is None


def test_a_signal_in_a_callback_of_a_weak_reference_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        go_while_a_signal_comes()
        assert interrupted()
        check_interrupted()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_python_alone_loses_it() -> None:
    go_while_a_signal_comes()  # the control: no KeyboardInterrupt here


def test_the_second_signal_does_not_wait() -> None:
    with interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check_interrupted()
        check_interrupted()


def test_a_launchers_sigterm_after_a_sigint_waits() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                check_interrupted()
            check_interrupted()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_after_the_last_check_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_that_python_did_not_install_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """getsignal gives None for it, which cannot be installed again: leaving the block was a TypeError."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with interruptible():
        pass


def test_another_thread_changes_nothing() -> None:
    handlers = []

    def look() -> None:
        with interruptible():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
