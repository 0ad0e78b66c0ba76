"""`mervn ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.errors import UsageError
from mervn.config import AblateOptions

if TYPE_CHECKING:
    from mervn.study.ablate import StudyResult


@command("ablate", argument="grid", optional=True)
def ablate_command(grid: Path | None, options: AblateOptions, output: Output) -> int:
    """Train the heads of a GRID.toml and compare them: mean, deviation, intervals, tests.

    Each cell of the grid is a run of train-head; complete ones are kept, so repeat the command to
    resume it, or add rows and seeds. Every choice is made on valid.
    """
    if options.example:
        click.echo((Path(__file__).parent.parent / "mervn" / "study" / "example.toml").read_text("utf-8"), nl=False)
        return 0
    if grid is None:
        raise UsageError("give a grid: mervn ablate GRID.toml; `mervn ablate --example` prints one")
    data = resolve_data(options.data)

    from mervn.study.ablate import ablate

    try:
        result = ablate(grid, options, data, output)
    except KeyboardInterrupt:
        output.say("complete cells are kept")
        raise
    return _print(result, output)


def _print(result: StudyResult, output: Output) -> int:
    """Print the tables of a study; return 1 if a cell failed."""
    if result.tables is None:
        output.document({"output": str(result.output), "cells": result.cells, "waiting": result.waiting})
        return 0
    from mervn.study.tables import effect_lines, table_lines

    tables = result.tables
    output.table(*table_lines(tables))
    output.result("")
    output.table(*effect_lines(tables))
    output.result("")
    output.result(tables.caption)
    for name, error in tables.failed.items():
        output.result(f"failed: {name}: {error}")
    if tables.failed:
        output.say("fix the cause, then train the failed cells with --retry")
    output.result(f"{result.output}: report.html, table.csv, table.md, table.tex, effects.csv, cells.csv")
    rows, baselines = [], []
    for scores in tables.scores:
        found = {"row": dict(scores.row.axes), "tuned": dict(scores.tuned), "macro_f1": scores.mean()}
        if scores.row.is_baseline:
            baselines.append({"kind": scores.kind, **found})
        else:
            rows.append({**found, "against_linear": scores.against_linear})
    output.document(
        {
            "output": str(result.output), "split": tables.split, "cells": result.cells, "trained": result.waiting,
            "rows": rows, "baselines": baselines, "failed": dict(tables.failed),
        }
    )  # fmt: skip
    return 1 if tables.failed else 0
