"""Reporter: receives messages and progress of long-running work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tqdm import tqdm


class Reporter(Protocol):
    """Receives messages, progress and the scores of each epoch."""

    def say(self, text: str) -> None:
        """Print one status line."""

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar of `total` utterances or other units, of which `done` are done.

        It has `update(n)` and `close()`.
        """

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Report the history entry of a finished epoch."""


class Silent:
    """Reporter that prints nothing."""

    def say(self, text: str) -> None:
        """Print nothing."""

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar that is not shown."""
        return no_bar(total, done, what)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Print nothing."""


SILENT = Silent()


def no_bar(total: int, done: int, what: str = "") -> Any:
    """Return a progress bar that is not shown."""
    return tqdm(total=total, initial=done, disable=True)


class WithoutBars:
    """Reporter that passes everything but progress bars to another, for work that takes seconds."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def say(self, text: str) -> None:
        """Print one status line."""
        self._reporter.say(text)

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar that is not shown."""
        return no_bar(total, done, what)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Report a finished epoch."""
        self._reporter.epoch(entry)


class OncePerLine:
    """Reporter that passes each message on once: many evaluations say the same."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Print one status line, without a repetition."""
        if text not in self._said:
            self._said.add(text)
            self._reporter.say(text)

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar."""
        return self._reporter.progress(total, done, what, unit)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Report a finished epoch."""
        self._reporter.epoch(entry)
