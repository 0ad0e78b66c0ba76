"""Files of a study: cells.csv, table.csv, effects.csv, table.md and table.tex.

table.csv and effects.csv are a pure function of the predictions of the cells: no times, no paths.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.tables import latex_text
from mervn.evaluation.compare import SeedDifferences
from mervn.evaluation.intervals import METRICS, Interval, PairedDifference
from mervn.study.cells import Cell, describe, shown
from mervn.study.grid import key_of
from mervn.study.pooled_scores import pool, predictions_file, read_run
from mervn.study.study_scores import METRIC, Effect, RowScores, Study
from mervn.study.tables import Tables, effect_lines, table_lines

CELLS_FILE, TABLE_FILE, EFFECTS_FILE = "cells.csv", "table.csv", "effects.csv"


def write_tables(study: Study, tables: Tables, output: Path) -> None:
    """Write all files of the tables; table.csv is last."""
    write_atomically(output / CELLS_FILE, _csv(cell_entries(study, tables)))
    write_atomically(output / EFFECTS_FILE, _csv(list(map(_effect_entry, tables.effects))))
    write_atomically(output / "table.md", _markdown(tables))
    write_atomically(output / "table.tex", _latex(tables))
    write_atomically(output / TABLE_FILE, _csv([_row_entry(tables.split, scores) for scores in tables.scores]))


def _csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return a CSV file; numbers have 6 decimals, what does not exist is empty."""
    if not entries:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(entries[0])
    for entry in entries:
        writer.writerow([_csv_value(value) for value in entry.values()])
    return text.getvalue()


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    # a negative zero would be a difference in bytes without one in value
    return f"{value + 0.0:.6f}".replace("-0.000000", "0.000000") if isinstance(value, float) else shown(value)


def _row_entry(split: str, scores: RowScores) -> dict[str, Any]:
    """Return one line of table.csv."""
    pooled = scores.pooled
    entry: dict[str, Any] = {key_of(name): shown(value) for name, value in scores.row.axes.items()}
    entry |= {"tuned": describe(scores.tuned), "split": split, "reference": scores.row.is_reference}
    seeds = len(pooled.confusions) if pooled else 0
    entry |= {"n": len(pooled.keys) if pooled else None, "seeds": seeds if scores.row.candidates else None}
    for metric in METRICS:
        entry |= {f"{metric}_mean": scores.mean(metric), f"{metric}_std": scores.deviation(metric)}
    entry |= _interval_entry(scores.interval, f"{METRIC}_")
    entry |= {
        "unit": pooled.units.name if pooled else None,
        "groups": pooled.units.num if pooled else None,
        "effective_groups": pooled.units.effective if pooled else None,
        "method": scores.interval.method if scores.interval else None,
    }
    entry |= _difference_entry(scores.difference, scores.p_holm)
    to_linear = scores.to_linear
    return entry | {
        "group": "baselines" if scores.row.is_baseline else "rows",
        "kind": scores.kind,
        "linear_difference": to_linear.difference if to_linear else None,
        **_interval_entry(to_linear.interval if to_linear else None, "linear_difference_"),
        "linear_p": to_linear.p if to_linear else None,
        "against_linear": scores.against_linear,
        **_interval_entry(scores.over_seeds, "difference_seeds_"),
        **_interval_entry(scores.linear_over_seeds, "linear_seeds_"),
    }


def _interval_entry(interval: Interval | SeedDifferences | None, prefix: str) -> dict[str, Any]:
    return {f"{prefix}low": interval.low if interval else None, f"{prefix}high": interval.high if interval else None}


def _difference_entry(found: PairedDifference | None, p_holm: float | None) -> dict[str, Any]:
    return {
        "difference": found.difference if found else None,
        **_interval_entry(found.interval if found else None, "difference_"),
        "p": found.p if found else None,
        "p_holm": p_holm,
        "test": found.test if found else None,
        "smallest_difference": found.smallest_difference if found else None,
    }


def _effect_entry(effect: Effect) -> dict[str, Any]:
    """Return one line of effects.csv."""
    entry = {"axis": key_of(effect.axis), "value": shown(effect.value), "pairs": effect.pairs}
    entry[f"{METRIC}_mean"] = effect.mean
    of_seeds = _interval_entry(effect.over_seeds, "difference_seeds_")
    return entry | _difference_entry(effect.difference, effect.p_holm) | of_seeds


def cell_entries(study: Study, tables: Tables) -> list[dict[str, Any]]:
    """Return the lines of cells.csv: one per cell, with its scores, time and error."""
    chosen = [scores.chosen for scores in tables.scores]
    tuned_names = dict.fromkeys(name for row in study.rows for one in row.candidates for name in one.tuned)
    entries = []
    for cell in study.cells:
        row = study.rows[cell.row]
        tuned = row.candidates[cell.candidate].tuned
        entry: dict[str, Any] = {key_of(name): shown(value) for name, value in row.axes.items()}
        entry |= {f"tune {key_of(name)}": shown(tuned.get(name)) for name in tuned_names}
        complete = cell.name in study.complete
        status = "complete" if complete else ("failed" if cell.name in tables.failed else "waiting")
        entry |= {"fold": cell.fold, "seed": cell.seed, "status": status, "chosen": chosen[cell.row] == cell.candidate}
        metrics, seconds = read_run(cell.run) if complete else ({}, None)
        entry["selected_epoch"] = metrics.get("selected_epoch")
        for metric in METRICS:
            entry[f"valid_{metric}"] = metrics["valid"][metric] if complete else None
        if tables.split == "test":
            entry |= _test_scores(study, tables, cell)
        error = tables.failed.get(cell.name, "").splitlines()
        entry |= {
            "seconds": seconds,
            "run": f"{cell.run.parent.name}/{cell.name}",
            "error": error[0] if error else None,
        }
        entries.append(entry)
    return entries


def _test_scores(study: Study, tables: Tables, cell: Cell) -> dict[str, Any]:
    """Return the scores on test of one cell; only the cells of chosen candidates have them."""
    is_chosen = tables.scores[cell.row].chosen == cell.candidate
    has_test = is_chosen and cell.name in study.complete and predictions_file(cell.run, "test") is not None
    pooled = pool([cell], study.complete, "test", study.unit) if has_test else None
    found: dict[str, Any] = {}
    for metric in METRICS:
        found[f"test_{metric}"] = pooled.scores(metric)[0] if pooled else None
    return found


def _markdown(tables: Tables) -> str:
    """Return table.md: the table, the marginal effects and the failed cells."""
    parts = [tables.caption, "", *_pipes(*table_lines(tables)), ""]
    parts += ["Marginal effect of each value: rows that differ in this axis only.", "", *_pipes(*effect_lines(tables))]
    if tables.failed:
        parts += ["", "Failed cells:", ""]
        parts += [f"- `{name}`: {error.splitlines()[0]}" for name, error in tables.failed.items()]
    return "\n".join(parts) + "\n"


def _pipes(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    found = []
    for line in (header, ["---"] * len(header), *lines):
        found.append("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")
    return found


def _latex(tables: Tables) -> str:
    """Return table.tex: two tables without packages."""
    effects = "Marginal effect of each value: rows that differ in this axis only."
    found = []
    for caption, (header, lines) in ((tables.caption, table_lines(tables)), (effects, effect_lines(tables))):
        body = [" & ".join(map(latex_text, line)) + r" \\" for line in (header, *lines)]
        found += [r"\begin{table}", rf"\caption{{{latex_text(caption)}}}", rf"\begin{{tabular}}{{{'l' * len(header)}}}"]
        found += [r"\hline", body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}", r"\end{table}"]
    return "\n".join(found) + "\n"
