"""`mervn report`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cli.options import command
from cli.output import Output
from cli.settings import flag_name
from features.errors import UsageError
from mervn.config import ReportOptions


@command("report", argument="run")
def report_command(run: Path, options: ReportOptions, output: Output) -> None:
    """Write report.html into a complete run, or into the folder of a study, a comparison or a check.

    The page of a run has scores with intervals, curves and mistakes: on test if those scores exist,
    else on valid. Nothing is scored again.
    """
    from mervn.data.saved_check import is_check
    from mervn.evaluation.saved_comparison import COMPARISON_FILE
    from mervn.report.check_page import write_check_report
    from mervn.report.comparison_page import write_comparison_report
    from mervn.report.html import write_report
    from mervn.report.study_page import TABLE_FILE, write_study_report

    if (run / TABLE_FILE).is_file():
        _refuse(options, (), "a study")
        path = write_study_report(run)
    elif (run / COMPARISON_FILE).is_file():
        _refuse(options, ("transcripts",), "a comparison")
        path = write_comparison_report(run, options.transcripts)
    elif is_check(run):
        _refuse(options, (), "a check")
        path = write_check_report(run)
    else:
        path = write_report(run, options)
    output.result(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")
    output.document({"run": str(run), "report": str(path)})


def _refuse(options: ReportOptions, read: Collection[str], kind: str) -> None:
    """Raise UsageError for options that the report of this kind does not read."""
    unread = [flag_name(name) for name in sorted(options.given) if name not in read]
    if unread:
        raise UsageError(f"the report of {kind} does not read {', '.join(unread)}; leave it out")
