"""Output of the commands: results and tables to stdout, messages and progress to stderr, JSON last if asked for."""

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
    if "tqdm" not in sys.modules:  # no bar can be shown, and importing tqdm costs more than `--help`
        click.echo(text, err=err)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr if err else sys.stdout):
        click.echo(text, err=err)


class Output:
    """Reporter of a command; with `--json` the last line of stdout is one JSON document, and tables go to stderr."""

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
        self.table(
            ("option", "value", "from"),
            [(name.replace("_", "-"), _plain(setting.value), setting.source) for name, setting in settings.items()],
        )
        self.document({name: {"value": s.value, "from": s.source} for name, s in settings.items()})

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar on stderr with rate and time left; in a log or a pipe, a line every 15 s."""
        from tqdm import tqdm

        if sys.stderr.isatty():
            look: dict[str, Any] = {"file": sys.stderr, "dynamic_ncols": True, "mininterval": 0.2, "leave": False}
        else:
            look = {
                "file": WholeLines(self.say),
                "ncols": 0,
                "mininterval": QUIET_INTERVAL_S,
                "delay": QUIET_INTERVAL_S,
            }
        bar = tqdm(total=total, initial=done, desc=what or None, unit=unit, **look)
        return self.epochs.timed(bar, total, what, self.say)


class WholeLines:
    """File that turns each state of a progress bar into a line of its own, without carriage returns."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def write(self, text: str) -> None:
        """Print the state of the bar."""
        if text.strip():
            self.say(text.strip())

    def flush(self) -> None:
        """Do nothing: each line is written at once."""


def _plain(value: Any) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


if TYPE_CHECKING:
    _reporter: Reporter = Output(False)  # a type checker compares it with the protocol, and nothing imports tqdm
