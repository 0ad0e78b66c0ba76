"""`mervn compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import command
from cli.output import Output
from features.tables import short_json
from mervn.config import CompareOptions

if TYPE_CHECKING:
    from mervn.evaluation.compare import Comparison


@command("compare", argument=("a", "b"))
def compare_command(a: Path, b: Path, options: CompareOptions, output: Output) -> None:
    """Compare two runs, or two series of seeds or folds, by their saved predictions.

    Nothing is scored: evaluate A and B first. Runs of series are paired by seed and fold. With
    --output, the comparison is saved, with a report as a page.
    """
    from mervn.evaluation.compare import compare
    from mervn.evaluation.saved_comparison import comparison_folder, write_comparison
    from mervn.report.comparison_page import write_comparison_report

    if options.output is None:
        found = compare(a, b, options)
        _print(found, output, {})
        return
    with comparison_folder(options.output, a, b, options):
        found = compare(a, b, options)
        write_comparison(options.output, found, options)
        path = write_comparison_report(options.output, options.transcripts)
    _print(found, output, {"report": str(path)})


def _print(found: Comparison, output: Output, written: Mapping[str, str]) -> None:
    """Print a comparison; `written` are the paths of the files that were written, by name."""
    from mervn.evaluation.verdict import baselines_remark, document, seed_remark, sentence

    output.result(sentence(found))
    remark = seed_remark(found)
    if remark is not None:
        output.result(remark)
    output.result(baselines_remark(found))
    for run in found.left_out:
        output.result(f"left out: {run}, which has no partner")
    rows = []
    for name, (of_a, of_b) in found.configuration.items():
        rows.append((name, short_json(of_a), short_json(of_b)))
    if rows:
        output.table(("configuration", "A", "B"), rows)
    else:
        output.result("A and B have the same configuration")
    for name, path in written.items():
        output.result(f"{name}: {path}")
    output.document({**document(found), **written})
