"""Output of the commands: results to stdout, messages and progress to stderr, JSON last."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.epochs import EpochLog
from features.tables import aligned

if TYPE_CHECKING:
    from cli.settings import Setting
    from features.progress import Reporter

QUIET_INTERVAL_S = 15.0
"""Seconds between the lines of progress in a log or a pipe; shorter work prints none."""


def echo(text: str, err: bool = True) -> None:
    """Print a line above the progress bars that are shown."""
    # without tqdm no bar is shown, and importing it takes longer than `--help`
    if "tqdm" not in sys.modules:
        click.echo(text, err=err)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr if err else sys.stdout):
        click.echo(text, err=err)


class Output:
    """Reporter of a command.

    With `--json`, results and tables go to stderr, and the last line of stdout is a JSON document.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.epochs = EpochLog()
        """Describes the epochs; a command that trains sets one with its number of epochs."""

    def say(self, text: str) -> None:
        """Print a message to stderr."""
        echo(text)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Print the scores of a finished epoch, and the time left."""
        self.say(self.epochs.line(entry))

    def result(self, text: str) -> None:
        """Print a line of the result for people."""
        echo(text, err=self.as_json)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table."""
        for line in aligned(header, rows):
            self.result(line)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the JSON document, if asked for."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, default=str))

    def print_settings(self, settings: Mapping[str, Setting]) -> None:
        """Print each value and its source."""
        rows, document = [], {}
        for name, setting in settings.items():
            rows.append((name.replace("_", "-"), _plain(setting.value), setting.source))
            document[name] = {"value": setting.value, "from": setting.source}
        self.table(("option", "value", "from"), rows)
        self.document(document)

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar on stderr; in a log or a pipe, a line every QUIET_INTERVAL_S."""
        from tqdm import tqdm

        if sys.stderr.isatty():
            style: dict[str, Any] = {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.2, "leave": False}
        else:
            quiet = QUIET_INTERVAL_S
            style = {"file": WholeLines(self.say), "ncols": 0, "mininterval": quiet, "delay": quiet}
        bar = tqdm(total=total, initial=done, desc=what or None, unit=unit, **style)
        return self.epochs.timed(bar, total, what, self.say)


class WholeLines:
    """File that turns each state of a progress bar into a line, without carriage returns."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def write(self, text: str) -> None:
        """Print the state of the bar."""
        if text.strip():
            self.say(text.strip())

    def flush(self) -> None:
        """Do nothing: each line is written at once."""


def _plain(value: Any) -> str:
    """Return a value as text, several values with commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if TYPE_CHECKING:
    _reporter: Reporter = Output(False)  # a type checker compares the class with the protocol
