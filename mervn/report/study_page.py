"""The report of an ablation study: the table of the paper, its intervals, and every cell."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.atomic_files import write_atomically
from features.errors import InputError, name_some
from mervn.data.saved_check import overlap_remarks, read_overlap
from mervn.evaluation.verdict import (
    BASELINES_NOTE,
    BEATS,
    CHOSEN_ON_VALID,
    DOES_NOT_BEAT,
    OVER_SEEDS_NOTE,
    UNKNOWN_UNITS,
    comparison_needs,
    count_units,
    flag_of,
    not_compared,
)
from mervn.report.figures import plot_rows
from mervn.report.page import REPORT_FILE, render

TABLE_FILE, EFFECTS_FILE, CELLS_FILE = "table.csv", "effects.csv", "cells.csv"
REQUIRED = ("tuned", "split", "reference", "seeds", "macro_f1_mean", "macro_f1_low", "macro_f1_high", "p_holm")
DIFFERENCE_HEADER = ("difference", "95 % interval", "over seeds", "p (Holm)")
LEVEL = 0.05
"""Corrected p up to which a difference counts as shown."""
Line = Mapping[str, str]


def write_study_report(study: Path) -> Path:
    """Write report.html into the folder of a study and return its path.

    Reads table.csv, effects.csv, cells.csv and the overlap of scored cells. InputError if one is missing or damaged.
    """
    table, effects, cells = [_read(study / name) for name in (TABLE_FILE, EFFECTS_FILE, CELLS_FILE)]
    missing = [name for name in REQUIRED if table and name not in table[0]]
    if not table or missing:
        lacking = ", ".join(missing) or "lines"
        raise InputError(f"{study / TABLE_FILE} must be the table of a study, but lacks {lacking}")
    axes = list(table[0])[: list(table[0]).index("tuned")]
    rows = [line for line in table if not is_baseline(line)]
    added = [line for line in table if is_baseline(line)]
    linear = ("against linear",) if any(line.get("against_linear") for line in rows) else ()
    failed = [line for line in cells if line["status"] == "failed"]
    scored = next((line for line in table if line["groups"]), table[0])  # a row without complete cells has no units
    verdict = " ".join(filter(None, (study_verdict(rows, axes), linear_verdict(rows, axes))))
    page = render(
        "study.html",
        title=study.resolve().name,
        split=table[0]["split"],
        verdict=verdict,
        warnings=[*_warnings(rows, failed, axes, verdict), *_overlap(study, table[0]["split"], cells)],
        header=(*axes, "seeds", "macro-F1", "95 % interval", *DIFFERENCE_HEADER, *linear),
        lines=[[*_line(line, axes), *([_against_linear(line)] if linear else [])] for line in rows],
        baselines_header=("baseline", *axes, "macro-F1", "95 % interval", "difference", "95 % interval"),
        note=BASELINES_NOTE,
        seeds_note=OVER_SEEDS_NOTE if any(line.get("difference_seeds_low") for line in rows) else "",
        baselines=[_baseline(line, axes) for line in added],
        figures=plot_rows([_place(line, axes) for line in table]),
        effects_header=("axis", "value", "mean macro-F1", *DIFFERENCE_HEADER),
        effects=[_effect(line) for line in effects],
        cells=[_cell(line) for line in cells],
        failed=[(line["run"], line["error"]) for line in failed],
        units={**scored, "effective_groups": _number(scored["effective_groups"], ".1f")},
        command=shlex.join(["mervn", "report", str(study)]),
    )
    path = study / REPORT_FILE
    write_atomically(path, page.encode())
    return path


def _warnings(rows: Sequence[Line], failed: Sequence[Line], axes: Sequence[str], verdict: str) -> list[str]:
    """Return what weakens the study, with the rows that are not compared unless the verdict names them."""
    others = other_rows(rows, axes)
    return [*study_warnings(rows, failed), *([others] if others and others not in verdict else [])]


def _overlap(study: Path, split: str, cells: Sequence[Line]) -> list[str]:
    """Return what scored cells say about what test shares with the training."""
    kinds: dict[str, None] = {}
    remarks: dict[str, None] = {}
    for cell in cells if split == "test" else []:
        remarks |= dict.fromkeys(overlap_remarks(study / cell["run"]))
        for each in read_overlap(study / cell["run"]):
            if each["severity"] != "info":
                kinds[each["id"]] = None
    found = [f"test is not all new to the models: {', '.join(kinds)}. mervn check explains it."] if kinds else []
    return found + [f"Overlap of test with the training: {remark}." for remark in remarks]


def _read(path: Path) -> list[Line]:
    """Read a CSV file; InputError if it is missing or a line has another number of values."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines: list[Line] = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the same mervn ablate again") from error
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} must be a CSV file, but cannot be read: {error}") from error
    for number, line in enumerate(lines, 2):
        if None in line or None in line.values():
            raise InputError(f"{path}:{number} must have as many values as the first line; run mervn ablate again")
    return lines


def is_baseline(line: Line) -> bool:
    """Tell whether the study has added a line to those of the grid; tables without groups have none."""
    return line.get("group") == "baselines"


def name_of(line: Line, axes: Sequence[str]) -> str:
    """Return the values of a line on all axes that vary, such as `xattn, mean`."""
    if is_baseline(line):
        kind = line["fusion"] if "fusion" in axes else line["kind"]  # such as linear_text
        return ", ".join([kind, *(line[axis] for axis in axes if axis != "fusion" and line[axis])])
    return ", ".join(line[axis] for axis in axes)


def study_verdict(table: Sequence[Line], axes: Sequence[str]) -> str:
    """Return the sentence that says which differences to the reference the data shows."""
    reference = next((line for line in table if line["reference"] == "true" and line["groups"]), None)
    if reference is None:
        return "The reference has no complete cells, so nothing is compared."
    name, groups = name_of(reference, axes), int(reference["groups"])
    better: list[str] = []
    worse: list[str] = []
    changing: list[str] = []
    tested: list[Line] = []
    for line in table:
        if line["p_holm"]:
            tested.append(line)
            if float(line["p_holm"]) <= LEVEL and excludes_zero(line, "difference"):
                side = better if float(line["difference"]) > 0 else worse
                (side if excludes_zero(line, "difference_seeds") else changing).append(name_of(line, axes))
    split = reference["split"]
    if not tested and (others := other_rows(table, axes)):
        return others
    if not tested:
        units = count_units(reference["unit"], groups)
        return f"No row could be tested against {name} on {split}: {comparison_needs(units)}."
    if (least := len(tested) * 2.0 ** (1 - groups)) > LEVEL:
        return (
            f"No difference to {name} can be shown on {split}: with {groups} units of evidence and "
            f"{len(tested)} tests, the smallest corrected p is {least:.2f}. More speakers or fewer rows are needed."
        )
    if not better and not worse and not changing:
        smallest = [float(line["smallest_difference"]) for line in tested if line["smallest_difference"]]
        could = f" A difference of {min(smallest):.3f} to {max(smallest):.3f} could be shown." if smallest else ""
        return f"No row is shown to differ from {name} on {split}.{could}"
    parts = []
    for names, word in ((better, "better"), (worse, "worse")):
        if names:
            parts.append(f"Shown to be {word} than {name} on {split}: {name_some(names, '; ')}.")
    if changing:
        why = "because the difference changes with the seed"
        parts.append(f"Not shown to differ from {name}, {why}: {name_some(changing, '; ')}.")
    return " ".join(parts)


def other_rows(table: Sequence[Line], axes: Sequence[str]) -> str:
    """Return which rows are not compared with the reference, because they scored other utterances, or nothing."""
    reference = next((line for line in table if line["reference"] == "true" and line.get("n")), None)
    if reference is None:
        return ""
    others = []
    for line in table:
        if line is not reference and line.get("n") and not line["difference"]:
            others.append((name_of(line, axes), int(line["n"])))
    return not_compared(others, int(reference["n"]))


def excludes_zero(line: Line, key: str) -> bool:
    """Tell whether an interval excludes 0, or there is none: with one seed, and over seeds in older tables."""
    low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
    return not low or not high or float(low) > 0 or float(high) < 0


def linear_verdict(table: Sequence[Line], axes: Sequence[str]) -> str:
    """Return the sentence that names the rows that do not beat linear; empty if none was compared."""
    compared = [line for line in table if line.get("against_linear")]
    known = [line for line in compared if line["against_linear"] in (BEATS, DOES_NOT_BEAT)]
    flagged = [name_of(line, axes) for line in known if line["against_linear"] == DOES_NOT_BEAT]
    if not compared:
        return ""
    if not known:
        return f"Whether a row beats linear on its own features is unknown ({compared[0]['against_linear']})."
    of = f"({len(flagged) or len(known)} of {len(compared)} compared)"
    if not flagged:
        return f"No row is flagged against linear on its own features: their intervals are above it {of}."
    return f"{DOES_NOT_BEAT.capitalize()} on its own features {of}: {'; '.join(flagged)}."


def study_warnings(table: Sequence[Line], failed: Sequence[Line]) -> list[str]:
    """Return what weakens the study, most important first."""
    found = []
    if table[0]["split"] == "valid":
        found.append(CHOSEN_ON_VALID)
    if failed:
        found.append(f"{len(failed)} cells failed; their seeds are missing in the table.")
    seeds = {int(line["seeds"]) for line in table if line.get("kind") != "linear"}  # which has no seed
    if seeds and max(seeds) < 2:
        found.append("There is one seed for each row: a difference can be that of the seed.")
    elif len(seeds) > 1:
        found.append(f"The rows have {min(seeds)} to {max(seeds)} seeds; differences use the seeds of both.")
    if any(line["method"].endswith("independent utterances") for line in table):
        found.append(UNKNOWN_UNITS)
    return found


def _place(line: Line, axes: Sequence[str]) -> tuple[str, float | None, float | None, float | None, bool]:
    """Return name, mean, low and high of a line, and whether it is the reference."""
    numbers = [float(line[key]) if line[key] else None for key in ("macro_f1_mean", "macro_f1_low", "macro_f1_high")]
    return name_of(line, axes), numbers[0], numbers[1], numbers[2], line["reference"] == "true"


def _line(line: Line, axes: Sequence[str]) -> list[str]:
    """Return what the table shows of a line."""
    mean, std = line["macro_f1_mean"], line["macro_f1_std"]
    score = f"{float(mean):.3f}" + (f" ± {float(std):.3f}" if std else "") if mean else ""
    difference = "reference" if line["reference"] == "true" else _number(line["difference"], "+.3f")
    values = [line[axis] for axis in axes]
    return [*values, line["seeds"], score, _range(line, "macro_f1"), difference, *_evidence(line)]


def _evidence(line: Line) -> list[str]:
    """Return the intervals of a difference over units and over seeds, and its p."""
    return [_range(line, "difference"), _range(line, "difference_seeds"), _number(line["p_holm"], ".3f")]


def _against_linear(line: Line) -> str:
    """Return the difference of a line to linear and its interval, with the flag if it does not beat it."""
    if line["against_linear"] not in (BEATS, DOES_NOT_BEAT):
        return line["against_linear"]
    flag = flag_of(line["against_linear"], float(line["linear_difference_low"]))
    return f"{_number(line['linear_difference'], '+.3f')} ({_range(line, 'linear_difference')}){flag}"


def _baseline(line: Line, axes: Sequence[str]) -> list[str]:
    """Return what the table of the baselines shows of a line."""
    score, difference = _number(line["macro_f1_mean"], ".3f"), _number(line["difference"], "+.3f")
    values = [line[axis] for axis in axes]
    return [line["kind"], *values, score, _range(line, "macro_f1"), difference, _range(line, "difference")]


def _effect(line: Line) -> list[str]:
    """Return what the table of marginal effects shows of a line."""
    difference = _number(line["difference"], "+.3f") or ("reference" if line["pairs"] == "0" else "not compared")
    return [line["axis"], line["value"], _number(line["macro_f1_mean"], ".3f"), difference, *_evidence(line)]


def _cell(line: Line) -> list[str]:
    """Return what the list of cells shows of a line."""
    seconds = _number(line["seconds"], ".1f")
    return [line["run"], line["status"], _number(line["valid_macro_f1"], ".3f"), line["selected_epoch"], seconds]


def _range(line: Line, key: str) -> str:
    low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
    return f"{float(low):.3f} to {float(high):.3f}" if low and high else ""


def _number(text: str, form: str) -> str:
    return format(float(text), form) if text else ""
