"""Reporter of a command: messages and progress to its output, epochs to a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cli.output import Output


class CommandReporter:
    """Implements `features.progress.Reporter`."""

    def __init__(self, output: Output, epoch: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.say, self.progress, self._epoch = output.say, output.progress, epoch

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Report a finished epoch."""
        if self._epoch is not None:
            self._epoch(entry)
