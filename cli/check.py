"""`mervn check`."""

from __future__ import annotations

import textwrap
import time
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
    is kept in the features folder. The exit code is 1 if a finding is an error.
    """
    if folder is not None and options.data is not None and "data" in options.given:
        raise UsageError(f"give the data folder once, found {folder} and --data {options.data}")
    data = resolve_data(folder if folder is not None else options.data)

    from features.audit.check import check_data
    from features.store.index import features_folder

    started = time.perf_counter()
    found = check_data(
        data,
        features_folder(options.features_dir, data),
        options.audio_root,
        audio=options.audio,
        threads=options.threads,
        reporter=output,
    )
    _print(found, time.perf_counter() - started, output)
    return 1 if found.has_errors else 0


def _print(found: Check, seconds: float, output: Output) -> None:
    """Print the findings, what was not checked, and the cost."""
    from features.audit.finding import counted

    for finding in found.findings:
        _print_finding(finding, output)
    sizes = ", ".join(f"{size} in {split}" for split, size in found.splits.items())
    counts = f"{counted(found.counts['error'], 'error')}, {counted(found.counts['warning'], 'warning')}"
    counts += f", {found.counts['info']} info"
    output.result(f"{sizes}: {counts}" if found.findings else f"{sizes}: nothing found")
    for remark in found.remarks:
        output.result(f"not checked: {remark}")
    output.say(f"audio of {found.measured} utterances, {found.hours:.2f} h; {seconds:.1f} s")
    output.document(found.as_json())


def _print_finding(finding: Finding, output: Output) -> None:
    """Print one finding as a paragraph."""
    output.result(f"{finding.severity}: {finding.id}: {finding.message}")
    for name, text in (("why", finding.why), ("fix", finding.fix), ("see", ", ".join(finding.examples))):
        for line in textwrap.wrap(f"{name}: {text}", WIDTH, **LAYOUT):
            output.result(line)
