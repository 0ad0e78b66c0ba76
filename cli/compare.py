"""`mervn compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli.options import command
from cli.output import Output
from mervn.config import CompareOptions

LONGEST_VALUE = 40
"""Number of characters of a value of the configuration that the table shows."""


@command("compare", argument=("a", "b"))
def compare_command(a: Path, b: Path, options: CompareOptions, output: Output) -> None:
    """Compare two runs, or two series of seeds or folds, by their saved predictions.

    Nothing is scored: evaluate A and B first. Runs of series are paired by seed and fold.
    """
    from mervn.evaluation.compare import compare
    from mervn.evaluation.verdict import baselines_remark, document, seed_remark, sentence

    found = compare(a, b, options)
    output.result(sentence(found))
    remark = seed_remark(found)
    if remark is not None:
        output.result(remark)
    output.result(baselines_remark(found))
    for run in found.left_out:
        output.result(f"left out: {run}, which has no partner")
    rows = []
    for name, (of_a, of_b) in found.configuration.items():
        rows.append((name, _short(of_a), _short(of_b)))
    if rows:
        output.table(("configuration", "A", "B"), rows)
    else:
        output.result("A and B have the same configuration")
    output.document(document(found))


def _short(value: Any) -> str:
    """Return a value of a configuration as short text; a dash if the option is not read."""
    if value is None:
        return "-"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
