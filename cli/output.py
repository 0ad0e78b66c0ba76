"""What commands print: results and tables to stdout, everything on the way to stderr, JSON last if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cli.settings import Setting

QUIET_INTERVAL_S = 15.0


class Output:
    """With `--json` the last line of stdout is one JSON document, and tables go to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        """Print a line about what is going on, to stderr."""
        click.echo(text, err=True)

    def result(self, text: str) -> None:
        """Print a line of the result for people."""
        click.echo(text, err=self.as_json)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print aligned columns; numbers to the right."""
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(cell) for cell in column) for column in zip(header, *cells, strict=True)]
        numeric = [bool(rows) and all(isinstance(row[i], int | float) or _is_number(str(row[i])) for row in rows)
                   for i in range(len(header))]  # fmt: skip
        for line in (header, *cells):
            aligned = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ]
            self.result("  ".join(aligned).rstrip())

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the JSON document, if asked for."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, default=str))

    def print_settings(self, settings: Mapping[str, Setting]) -> None:
        """Print each value and where it came from."""
        self.table(
            ("option", "value", "from"),
            [(name.replace("_", "-"), _plain(setting.value), setting.source) for name, setting in settings.items()],
        )
        self.document({name: {"value": s.value, "from": s.source} for name, s in settings.items()})

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar on stderr: what, rate, time left; rarely redrawn where nobody watches."""
        from tqdm import tqdm

        watched = sys.stderr.isatty()
        return tqdm(
            total=total, initial=done, desc=what or None, unit=unit, file=sys.stderr, dynamic_ncols=watched,
            mininterval=0.2 if watched else QUIET_INTERVAL_S,
        )  # fmt: skip


def _plain(value: Any) -> str:
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("-", "")
