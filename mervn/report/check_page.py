"""The report of a check: its findings, and what the corpus holds by split and class."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.audit.corpus_summary import QUANTILES, UNLABELLED
from features.audit.finding import NO_LABEL
from features.config import SPLITS
from features.counts import counted
from features.durations import duration
from features.errors import InputError
from mervn.data.saved_check import CHECK_FILE, read_check
from mervn.report.figures import SpreadLine, plot_bars, plot_spreads
from mervn.report.page import REPORT_FILE, render

LISTED_CLASSES = 200
"""Maximum number of classes in the table."""
DRAWN_CLASSES = 12
"""Maximum number of classes in a figure, the most frequent ones."""
LONGEST_LABEL = 24
"""Maximum number of characters of a label in a figure."""
MIDDLE = (
    f"the dot is the median, the thick line the middle half, the thin line {QUANTILES[0]:.0%} to {QUANTILES[-1]:.0%}"
)


def write_check_report(folder: Path) -> Path:
    """Write report.html into the folder of a check and return its path.

    Everything is taken from check.json; nothing is checked again. InputError if that file is
    missing, damaged or of another version.
    """
    saved = read_check(folder)
    try:
        page = render_check(folder, saved)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{folder / CHECK_FILE} must hold a check, but a value is missing or of another type: {error!r}; "
            f"check again:\n  {_command(folder, saved)}"
        ) from error
    path = folder / REPORT_FILE
    write_atomically(path, page.encode())
    return path


def render_check(folder: Path, saved: Mapping[str, Any]) -> str:
    """Return the HTML page of a check, the content of check.json."""
    splits: dict[str, Any] = {
        split: saved["corpus"]["splits"][split] for split in SPLITS if split in saved["corpus"]["splits"]
    }
    labels = frequent_labels(splits)
    return render(
        "check.html",
        title=f"{Path(saved['request']['data']).name}: check",
        verdict=check_verdict(saved["counts"]),
        remarks=saved["remarks"],
        findings=saved["findings"],
        classes_header=("class", *splits, "all"),
        classes=[*(_class(label, splits) for label in labels[:LISTED_CLASSES]), _all_classes(splits)],
        unlisted=max(0, len(labels) - LISTED_CLASSES),
        splits=[_split(split, found) for split, found in splits.items()],
        figures=list(_figures(saved["corpus"], splits, labels)),
        facts=_facts(saved),
        environment=[("checked", saved["environment"]["time"]), *saved["environment"]["versions"].items()],
        command=_command(folder, saved),
    )


def check_verdict(counts: Mapping[str, int]) -> str:
    """Return the sentence that says what the findings mean for scores on the corpus."""
    errors, warnings = counted(counts["error"], "error"), counted(counts["warning"], "warning")
    if counts["error"]:
        others = f" and {warnings}" if counts["warning"] else ""
        return f"{errors}{others}: until the errors are fixed, scores on this corpus are wrong, or commands refuse it."
    if counts["warning"]:
        return f"No errors, but {warnings}: read them before you believe a score on this corpus."
    return "Nothing was found that would make scores on this corpus wrong or doubtful."


def frequent_labels(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the labels of all splits, the most frequent first; utterances without a label come last."""
    totals: dict[str, int] = {}
    for found in splits.values():
        for label, count in found["classes"].items():
            totals[label] = totals.get(label, 0) + count
    return sorted(totals, key=lambda label: (label == UNLABELLED, -totals[label], label))


def _class(label: str, splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the name of a class and its number of utterances in each split and in all."""
    counts = [found["classes"].get(label, 0) for found in splits.values()]
    totals = [found["utterances"] for found in splits.values()]
    shown = []
    for count, total in zip([*counts, sum(counts)], [*totals, sum(totals)], strict=True):
        shown.append(f"{count} ({count / max(1, total):.0%})")
    return [label or NO_LABEL, *shown]


def _all_classes(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    totals = [found["utterances"] for found in splits.values()]
    return ["all", *map(str, totals), str(sum(totals))]


def _split(split: str, found: Mapping[str, Any]) -> list[str]:
    """Return what the table of the splits shows of one."""
    effective = f"{found['effective_speakers']:.1f}" if found["speakers"] else ""
    largest = f"{found['largest_speaker'] / max(1, found['utterances']):.0%}" if found["speakers"] else ""
    seconds = duration(found["seconds"])
    if found["unknown_duration"]:
        seconds += f", {found['unknown_duration']} unknown"
    numbers = [found["speakers"], effective, largest, found["unknown_speaker"], found["without_words"]]
    return [split, str(found["utterances"]), *map(str, numbers), seconds]


def _figures(
    corpus: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]], labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the caption and the SVG element of each figure that has something to show."""
    most = f" of the {DRAWN_CLASSES} most frequent classes" if len(labels) > DRAWN_CLASSES else ""
    for key, what, unit in (("durations", "Duration", "seconds"), ("levels", "Level", "RMS, dB of full scale")):
        lines: list[SpreadLine] = []
        for label in labels[:DRAWN_CLASSES]:
            for split, found in splits.items():
                if label in found[key]:
                    lines.append((_short(label or NO_LABEL), split, found[key][label]))
        if lines:
            figure = plot_spreads(key, f"{what} by class and split", lines, unit)
            yield f"{what} by class and split{most}: {MIDDLE}.", figure
    rates = {f"{rate} Hz": count for rate, count in corpus["sample_rates"].items()}
    if len(rates) > 1:
        shown = dict(list(rates.items())[:DRAWN_CLASSES])
        yield "Utterances by sample rate of the file.", plot_bars("rates", "Utterances by rate", shown, None, "d")


def _short(label: str) -> str:
    """Return a label that leaves room for the lines of a figure."""
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _facts(saved: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the value of what was checked."""
    request, corpus = saved["request"], saved["corpus"]
    facts = [("data", request["data"])]
    if request["audio_root"] is not None:
        facts.append(("audio", request["audio_root"]))
    total = sum(saved["splits"].values())
    facts.append(("audio measured", f"{saved['measured']} of {counted(total, 'utterance')}, {saved['hours']:.2f} h"))
    for name, key, unit in (("sample rates", "sample_rates", " Hz"), ("channels", "channels", "")):
        values = [f"{value}{unit}: {count}" for value, count in corpus[key].items()]
        if values:
            facts.append((name, ", ".join(values[:DRAWN_CLASSES]) + (", ..." if len(values) > DRAWN_CLASSES else "")))
    return facts


def _command(folder: Path, saved: Mapping[str, Any]) -> str:
    """Return the command that checks again."""
    request = saved["request"]
    root = [] if request["audio_root"] is None else ["--audio-root", request["audio_root"]]
    return shlex.join(["mervn", "check", request["data"], *root, "--output", str(folder)])
