"""The report.html that a command adds to its run."""

from __future__ import annotations

from pathlib import Path

from cli.output import Output


def add_report(run: Path, output: Output) -> None:
    """Write report.html into a complete run and say where it is.

    The run is complete without it, so a report that cannot be written is only a warning.
    """
    try:
        path = write(run)
    except Exception as error:
        reason = str(error) or type(error).__name__
        output.say(f"warning: no report.html was written, but the run is complete: {reason}")
        return
    output.say(f"report: {path}")


def write(run: Path) -> Path:
    """Write the report of a run; figures are imported only here."""
    from mervn.report.html import write_report

    return write_report(run)
