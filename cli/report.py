"""`mervn report`."""

from __future__ import annotations

from pathlib import Path

from cli.options import command
from cli.output import Output
from mervn.config import ReportOptions


@command("report", argument="run")
def report_command(run: Path, options: ReportOptions, output: Output) -> None:
    """Write report.html into a complete run: scores with intervals, curves, mistakes.

    It shows the scores on test if they exist, else on valid. Nothing is scored again.
    """
    from mervn.report.html import write_report

    path = write_report(run, options.split, options.transcripts)
    output.result(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")
    output.document({"run": str(run), "report": str(path)})
