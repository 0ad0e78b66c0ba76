"""`mervn check`."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.audit.options import CheckOptions
from features.errors import UsageError

if TYPE_CHECKING:
    from features.audit.check import Check
    from features.audit.finding import Finding

WIDTH = 100
LAYOUT: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "       ", "break_on_hyphens": False}


@command("check", argument="folder", optional=True)
def check(folder: Path | None, options: CheckOptions, output: Output) -> int:
    """Find faults and shortcuts in a corpus: leaks between splits, cues of labels, damaged audio.

    FOLDER is the data folder; --data names it too. All audio is decoded once, and what was measured
    is kept in the features folder. With --output, the findings are saved, with a report as a page.
    The exit code is 1 if a finding is an error.
    """
    if folder is not None and options.data is not None and "data" in options.given:
        raise UsageError(f"give the data folder once, found {folder} and --data {options.data}")
    data = resolve_data(folder if folder is not None else options.data)

    started = time.perf_counter()
    found, written = _check_and_save(data, options, output)
    _print(found, written, time.perf_counter() - started, output)
    return 1 if found.has_errors else 0


def _check_and_save(data: Path, options: CheckOptions, output: Output) -> tuple[Check, dict[str, str]]:
    """Return the check of a data folder, and the path of its report if it was written."""
    from features.audit.check import check_data
    from features.command_lines import features_folder

    def check_now() -> Check:
        stores, root = features_folder(options.features_dir, data), options.audio_root
        return check_data(data, stores, root, audio=options.audio, threads=options.threads, reporter=output)

    if options.output is None:
        return check_now(), {}
    from mervn.data.saved_check import check_folder, write_check
    from mervn.report.check_page import write_check_report

    with check_folder(options.output, data, options.audio_root):
        found = check_now()
        write_check(options.output, found, data, options.audio_root)
        return found, {"report": str(write_check_report(options.output))}


def _print(found: Check, written: Mapping[str, str], seconds: float, output: Output) -> None:
    """Print the findings, what was not checked, the files that were written and the cost."""
    from features.counts import counted

    for finding in found.findings:
        _print_finding(finding, output)
    sizes = ", ".join(f"{size} in {split}" for split, size in found.splits.items())
    counts = f"{counted(found.counts['error'], 'error')}, {counted(found.counts['warning'], 'warning')}"
    counts += f", {found.counts['info']} info"
    output.result(f"{sizes}: {counts}" if found.findings else f"{sizes}: nothing found")
    for remark in found.remarks:
        output.result(f"not checked: {remark}")
    for name, path in written.items():
        output.result(f"{name}: {path}")
    output.say(f"audio of {found.measured} utterances, {found.hours:.2f} h; {seconds:.1f} s")
    output.document({**found.as_json(), **written})


def _print_finding(finding: Finding, output: Output) -> None:
    """Print one finding as a paragraph."""
    output.result(f"{finding.severity}: {finding.id}: {finding.message}")
    for name, text in (("why", finding.why), ("fix", finding.fix), ("see", ", ".join(finding.examples))):
        for line in textwrap.wrap(f"{name}: {text}", WIDTH, **LAYOUT):
            output.result(line)
