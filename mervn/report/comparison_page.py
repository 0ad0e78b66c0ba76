"""The report of a comparison: the difference of A and B, its evidence, and where they disagree."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import write_atomically
from features.errors import InputError
from features.tables import short_json
from mervn.evaluation.saved_comparison import COMPARISON_FILE, MAX_DISAGREEMENTS, read_comparison
from mervn.evaluation.verdict import METRIC_NAMES
from mervn.report.figures import plot_confusion, plot_difference
from mervn.report.findings import comparison_warnings
from mervn.report.page import REPORT_FILE, render
from mervn.report.transcripts import read_utterances, transcript

LISTED_UNITS = 200
"""Maximum number of units in the table; the figure has all of them."""


def write_comparison_report(folder: Path, with_transcripts: bool = True) -> Path:
    """Write report.html into the folder of a comparison and return its path.

    Everything but the transcripts is taken from comparison.json; nothing is compared again.
    InputError if that file is missing, damaged or of another version.
    """
    saved = read_comparison(folder)
    try:
        page = render_comparison(folder, saved, with_transcripts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{folder / COMPARISON_FILE} must hold a comparison, but a value is missing or of another type: "
            f"{error!r}; compare again:\n  {_command(folder, saved)}"
        ) from error
    path = folder / REPORT_FILE
    write_atomically(path, page.encode())
    return path


def render_comparison(folder: Path, saved: Mapping[str, Any], with_transcripts: bool) -> str:
    """Return the HTML page of a comparison, the content of comparison.json."""
    deciding, units = saved["difference"], saved["unit_differences"]
    configuration = []
    for name, (of_a, of_b) in saved["configuration"].items():
        configuration.append((name, short_json(of_a), short_json(of_b)))
    return render(
        "comparison.html",
        title=folder.resolve().name,
        request=saved["request"],
        verdict=saved["sentence"],
        warnings=comparison_warnings(saved),
        seed_remark=saved["seed_remark"] if saved["over_seeds"] is not None else None,
        evidence=evidence_lines(saved),
        scores=[_scores(entry) for entry in saved["scores"]],
        tested=METRIC_NAMES[saved["metric"]],
        classes=[_class(entry) for entry in saved["per_class"]],
        figures=_figures(saved),
        unit=deciding["unit"].removesuffix("_id"),
        units=[_unit(entry) for entry in units[:LISTED_UNITS]],
        unlisted=max(0, len(units) - LISTED_UNITS),
        disagreements=disagreements(saved, with_transcripts),
        hidden=max(0, saved["differing"] - MAX_DISAGREEMENTS),
        num_seeds=len(saved["seeds"]),
        with_transcripts=with_transcripts,
        configuration=configuration,
        environment=environment(saved["runs"]),
        command=_command(folder, saved),
    )


def evidence_lines(saved: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the value of each number that the verdict rests on."""
    of = saved["difference"]
    interval, p, smallest = of["interval"], of["p"], of["smallest_difference"]
    found = [("difference, A minus B", f"{of['difference']:+.4f} {METRIC_NAMES[saved['metric']]}")]
    found.append(("95 % interval", _bounds(interval) if interval else "none: too few units"))
    found.append(("p", "none" if p is None else f"{p:.4f}"))
    found.append(("test", of["test"]))
    found.append(("G, number of units", f"{of['groups']} ({of['unit']})"))
    found.append(
        ("G*, effective number", "assumed equal to G" if of["independent"] else f"{of['effective_groups']:.1f}")
    )
    shown = "unknown" if smallest is None else f"{smallest:.4f}, in 4 of 5 cases"
    found.append(("smallest difference that this test set could show", shown))
    if saved["over_seeds"] is not None:
        seeds = saved["over_seeds"]
        values = ", ".join(f"{value:+.4f}" for value in seeds["values"])
        found.append(("differences of the seeds", values))
        found.append(("95 % interval over seeds", f"{seeds['low']:+.4f} to {seeds['high']:+.4f}"))
    for other in saved["by_unit"]:
        if other["key"] != of["key"]:
            bounds = _bounds(other["interval"]) if other["interval"] else "none"
            found.append((f"interval by {other['key']}", bounds))
    return found


def disagreements(saved: Mapping[str, Any], with_transcripts: bool) -> list[dict[str, str]]:
    """Return the utterances on which A and B differ, as text, with transcripts if they are known."""
    utterances = read_utterances(Path(saved["data"])) if with_transcripts else {}
    found = []
    for entry in saved["disagreements"]:
        found.append(
            {
                "id": entry["utterance_id"],
                "speaker": entry["speaker_id"] or "",
                "label": entry["label"],
                "a": _answer(entry["a"], len(saved["seeds"])),
                "b": _answer(entry["b"], len(saved["seeds"])),
                "transcript": transcript(utterances, entry["utterance_id"]),
            }
        )
    return found


def _answer(answer: Mapping[str, Any], num_seeds: int) -> str:
    """Return a prediction with its probability; with several seeds, also how many are right."""
    text = f"{answer['prediction']} ({answer['probability']:.3f})"
    return text if num_seeds == 1 else f"{text}, {answer['right']} of {num_seeds} right"


def environment(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the name of each entry of the environments of A and B, and both values as text."""
    flat = []
    for name in ("a", "b"):
        versions = runs[name].get("versions", {})
        flat.append({**{key: runs[name][key] for key in runs[name] if key != "versions"}, **versions})
    found = []
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        found.append((key, str(flat[0].get(key) or ""), str(flat[1].get(key) or "")))
    return found


def _figures(saved: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the caption and the SVG element of each figure."""
    of, units, metric = saved["difference"], saved["unit_differences"], METRIC_NAMES[saved["metric"]]
    interval = None if of["interval"] is None else (of["interval"]["low"], of["interval"]["high"])
    differences = [entry["difference"] for entry in units]
    dots = f" Each dot is one {of['unit'].removesuffix('_id')}." if units else ""
    found = [
        (
            f"Difference in {metric}, A minus B; the line is its 95 % interval.{dots}",
            plot_difference(of["difference"], interval, differences, metric),
        )
    ]
    summed = "" if len(saved["seeds"]) == 1 else f", summed over {len(saved['seeds'])} seeds"
    for name in ("a", "b"):
        figure = plot_confusion(np.array(saved["confusions"][name]), saved["labels"], f"confusion-{name}")
        found.append((f"Confusion matrix of {name.upper()}: counts{summed}, and fractions of the true label.", figure))
    return found


def _scores(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return name, A, B, difference and interval of a metric as text."""
    interval = _bounds(entry) if entry["low"] is not None else ""
    values = f"{entry['a']:.4f}", f"{entry['b']:.4f}", f"{entry['difference']:+.4f}"
    return METRIC_NAMES[entry["metric"]], *values, interval


def _class(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return label, support, and F1 of A and B as text."""
    difference = entry["a"] - entry["b"]
    return entry["label"], str(entry["support"]), f"{entry['a']:.3f}", f"{entry['b']:.3f}", f"{difference:+.3f}"


def _unit(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return name, number of utterances, A, B and difference of a unit as text."""
    values = f"{entry['a']:.3f}", f"{entry['b']:.3f}", f"{entry['difference']:+.3f}"
    return entry["name"] or "unknown", str(entry["n"]), *values


def _bounds(interval: Mapping[str, Any]) -> str:
    return f"{interval['low']:+.4f} to {interval['high']:+.4f}"


def _command(folder: Path, saved: Mapping[str, Any]) -> str:
    """Return the command that makes the comparison again."""
    request = saved["request"]
    flags = ["--split", request["split"], "--metric", request["metric"], "--unit", ",".join(request["unit"])]
    return shlex.join(["mervn", "compare", request["a"], request["b"], *flags, "--output", str(folder)])
