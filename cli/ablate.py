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
    from mervn.study.recipe_table import RecipeTable


@command("ablate", argument="grid", optional=True)
def ablate_command(grid: Path | None, options: AblateOptions, output: Output) -> int:
    """Train the heads of a GRID.toml and compare them: mean, deviation, intervals, tests.

    Each cell of the grid is a run of train-head; complete ones are kept, so repeat the command to
    resume it, or add rows and seeds. Every choice is made on valid. With --recipe NAME the grid is
    a built-in one, and its scores are shown beside those of a published table.
    """
    if grid is not None and options.recipe is not None:
        raise UsageError(f"give GRID.toml or --recipe, found both: {grid} and {options.recipe}")
    from mervn.study.recipes import grid_file, prepare_data, read_paper, require_folds

    if options.example:
        click.echo(grid_file(options.recipe).read_text("utf-8"), nl=False)
        return 0
    if grid is None and options.recipe is None:
        raise UsageError(
            "give a grid: mervn ablate GRID.toml, or --recipe NAME; `mervn ablate --example` prints a grid"
        )
    path = grid or grid_file(options.recipe)
    paper = read_paper(path)
    options = prepare_data(paper, options, output)
    data = resolve_data(options.data)
    require_folds(paper, path, options, data)

    from mervn.study.ablate import ablate

    try:
        result = ablate(path, options, data, output)
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
    files = "report.html, table.csv, table.md, table.tex, effects.csv, cells.csv"
    if result.recipe is not None:
        _print_recipe(result.recipe, output)
        files += ", recipe.md, recipe.csv"
    for name, error in tables.failed.items():
        output.result(f"failed: {name}: {error}")
    if tables.failed:
        output.say("fix the cause, then train the failed cells with --retry")
    output.result(f"{result.output}: {files}")
    rows, baselines = [], []
    for scores in tables.scores:
        found = {"row": dict(scores.row.axes), "tuned": dict(scores.tuned), "macro_f1": scores.mean()}
        if scores.row.is_baseline:
            baselines.append({"kind": scores.kind, **found})
        else:
            rows.append({**found, "against_linear": scores.against_linear})
    document = {
        "output": str(result.output), "split": tables.split, "cells": result.cells, "trained": result.waiting,
        "rows": rows, "baselines": baselines, "failed": dict(tables.failed),
    }  # fmt: skip
    if result.recipe is not None:
        document["recipe"] = [line.as_json() for line in result.recipe.lines]
    output.document(document)
    return 1 if tables.failed else 0


def _print_recipe(table: RecipeTable, output: Output) -> None:
    """Print the published scores beside those of the study."""
    from mervn.study.recipe_table import HEADER

    output.result("")
    output.table(HEADER, [line.cells() for line in table.lines])
    output.result("")
    output.result(table.caption)
    for text in table.recipe.paper.differs:
        output.result(f"differs from the protocol: {text}")
