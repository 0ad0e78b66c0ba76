"""Figures of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mervn.evaluation.intervals import Interval, Units, score
from mervn.report.svg import COLOURS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
WIDTH = 4.6
"""Width in inches: readable on a phone, and two side by side on a desk."""
BINS = 10
"""Bins of the reliability diagram."""
LINES_PER_FIGURE = 32
"""Maximum number of lines of a table in one figure: as many as fit on a printed page."""
TableLine = tuple[str, float | None, float | None, float | None, bool]
"""Name, mean, lower and upper bound, and whether it is the reference."""
SpreadLine = tuple[str, str, Sequence[float]]
"""Class, split, and five quantiles of a measurement, the median in the middle."""
SPLIT_COLOURS = {"train": COLOURS["accent"], "valid": COLOURS["second"], "test": COLOURS["muted"]}
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "uar": "UAR"}


def plot_units(confusions: Array, units: Units, intervals: Mapping[str, Interval | None], chance: float) -> str:
    """Draw each score with its interval, and below it a dot for each unit.

    confusions: (G, C, C) counts. The score of a unit counts only the classes that occur in it or
    are predicted for it.
    """
    total = confusions.sum(0)

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for row, metric in enumerate(NAMES):
            height, value = len(NAMES) - row, float(score(total, metric))
            interval = intervals[metric]
            if interval is not None:
                axes.plot([interval.low, interval.high], [height, height], color=COLOURS["accent"], linewidth=2.5)
            axes.plot([value], [height], "o", color=COLOURS["accent"], markersize=7)
            axes.annotate(f"{value:.3f}", (value, height), (0, 7), textcoords="offset points", ha="center")
            if not units.independent:
                dots = [unit_score(confusion, metric) for confusion in confusions]
                axes.plot(dots, np.full(len(dots), height - 0.3), "o", color=COLOURS["muted"], alpha=0.55, markersize=4)
        axes.axvline(chance, color=COLOURS["second"], linestyle="--", linewidth=1)
        axes.annotate("chance", (chance, 0.45), (4, 0), textcoords="offset points", color=COLOURS["second"], fontsize=8)
        axes.set_yticks(range(len(NAMES), 0, -1), list(NAMES.values()))
        axes.set_ylim(0.4, len(NAMES) + 0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="x")

    return draw("units", f"Scores with intervals and one dot per {units.name}", (WIDTH, 2.6), plot)


def unit_score(confusion: Array, metric: str) -> float:
    """Return a score of one unit over the classes that occur in it or are predicted for it."""
    present = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    return float(score(confusion[np.ix_(present, present)], metric))


def plot_curves(history: Sequence[Mapping[str, Any]], selected: int) -> str:
    """Draw losses and macro-F1 by epoch, with the chosen epoch."""
    epochs = [entry["epoch"] for entry in history]

    def plot(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        trained = [entry for entry in history if "train_loss" in entry]
        above.plot(
            [entry["epoch"] for entry in trained], [entry["train_loss"] for entry in trained], color=COLOURS["muted"],
            label="training loss",
        )  # fmt: skip
        nll = [entry["valid"]["nll"] for entry in history]
        above.plot(epochs, nll, color=COLOURS["accent"], label="NLL on valid")
        above.set_ylabel("loss")
        above.legend(fontsize=8)
        below.plot(epochs, [entry["valid"]["macro_f1"] for entry in history], color=COLOURS["accent"])
        below.set_ylabel("macro-F1, valid")
        below.set_ylim(0, 1.02)
        below.set_xlabel("epoch")
        is_late = 2 * selected > epochs[0] + epochs[-1]
        place: Any = {"xytext": (-4 if is_late else 4, 0), "ha": "right" if is_late else "left"}
        below.annotate(f"epoch {selected}", (selected, 0.05), textcoords="offset points", **place)
        for axes in (above, below):
            axes.axvline(selected, color=COLOURS["second"], linestyle="--", linewidth=1)
            axes.grid(axis="y")

    return draw("curves", f"Losses and macro-F1 by epoch; epoch {selected} is chosen", (WIDTH, 3.6), plot)


def plot_confusion(confusion: Array, labels: Sequence[str], name: str = "confusion") -> str:
    """Draw counts (C, C), [true][predicted]; the shade is the fraction of the true class.

    `name` must be unique on the page.
    """
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)

    def plot(figure: Figure) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        for row, column in np.ndindex(*confusion.shape):
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1, color=COLOURS["accent"], alpha=0.45 * shares[row, column])
            axes.add_patch(cell)
            text = f"{confusion[row, column]}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
        _label_classes(axes, labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")

    side = max(2.6, min(WIDTH, 1.4 + 0.55 * len(labels)))
    return draw(name, "Confusion matrix", (WIDTH, side), plot)


def _label_classes(axes: Axes, labels: Sequence[str]) -> None:
    places = range(len(labels))
    many = len(labels) > 3
    axes.set_xticks(places, list(labels), rotation=30 if many else 0, ha="right" if many else "center")
    axes.set_yticks(places, list(labels))
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(length=0)


def plot_reliability(targets: Array, probabilities: Array) -> str:
    """Draw accuracy over confidence in bins of equal width, with the fraction of utterances."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(counts)
    accuracy = np.bincount(bins, weights=correct, minlength=BINS)[used] / counts[used]
    mean = np.bincount(bins, weights=confidence, minlength=BINS)[used] / counts[used]

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        places = (np.arange(BINS) + 0.5) / BINS
        axes.bar(places, counts / counts.sum(), width=0.9 / BINS, color=COLOURS["grid"], label="fraction of utterances")
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle="--", linewidth=1, label="calibrated")
        axes.plot(mean, accuracy, "o-", color=COLOURS["accent"], label="accuracy")
        axes.set_xlabel("confidence")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.legend(fontsize=8, loc="upper left")

    return draw("reliability", "Accuracy over confidence", (WIDTH, 2.8), plot)


def plot_bars(
    name: str, description: str, values: Mapping[str, float], maximum: float | None = 1.0, form: str = ".3f"
) -> str:
    """Draw a horizontal bar with its value for each name."""

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        names, widths = list(values), list(values.values())
        axes.barh(names, widths, color=COLOURS["accent"], height=0.6)
        for place, width in enumerate(widths):
            text = format(width, form)
            axes.annotate(text, (width, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xlim(0, maximum * 1.12 if maximum is not None else None)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)

    return draw(name, description, (WIDTH, 0.7 + 0.27 * len(values)), plot)


def plot_spreads(name: str, description: str, lines: Sequence[SpreadLine], unit: str) -> str:
    """Draw the quantiles of each class and split as a thin and a thick line with a dot at the median."""
    places: list[float] = []
    for number, (label, _, _) in enumerate(lines):
        is_new = number > 0 and label != lines[number - 1][0]
        places.append((places[-1] + (1.8 if is_new else 1.0)) if places else 0.0)

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        middles: dict[str, list[float]] = {}
        for place, (label, split, (low, below, median, above, high)) in zip(places, lines, strict=True):
            colour = SPLIT_COLOURS[split]
            axes.plot([low, high], [place, place], color=colour, linewidth=1)
            axes.plot([below, above], [place, place], color=colour, linewidth=4, alpha=0.6)
            axes.plot([median], [place], "o", color=colour, markersize=5)
            middles.setdefault(label, []).append(place)
        for split in dict.fromkeys(split for _, split, _ in lines):
            axes.plot([], [], "o", color=SPLIT_COLOURS[split], label=split)
        figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        axes.set_yticks([float(np.mean(of_label)) for of_label in middles.values()], list(middles))
        axes.set_ylim(places[-1] + 0.8, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(unit)
        axes.grid(axis="x")

    return draw(name, description, (WIDTH, 0.8 + 0.15 * places[-1]), plot)


def plot_difference(
    difference: float, interval: tuple[float, float] | None, of_units: Sequence[float], metric: str
) -> str:
    """Draw a difference A minus B with its interval, and below it the difference of each unit.

    Units are in order of their differences, from the bottom up.
    """

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        if interval is not None:
            axes.plot(interval, [1.25, 1.25], color=COLOURS["accent"], linewidth=2.5)
        axes.plot([difference], [1.25], "o", color=COLOURS["accent"], markersize=7)
        axes.annotate(f"{difference:+.3f}", (difference, 1.25), (0, 7), textcoords="offset points", ha="center")
        heights = np.linspace(0.05, 1.0, len(of_units)) if len(of_units) > 1 else [0.5] * len(of_units)
        axes.plot(sorted(of_units), heights, "o", color=COLOURS["muted"], alpha=0.55, markersize=4)
        axes.axvline(0, color=COLOURS["second"], linestyle="--", linewidth=1)
        reach = 1.15 * max(0.01, abs(difference), *map(abs, of_units), *map(abs, interval or ()))
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-0.1, 1.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"B scores more  ←  {metric}, A − B  →  A scores more")
        axes.grid(axis="x")

    return draw("difference", f"Difference in {metric} with its interval", (WIDTH, 3.0), plot)


def plot_rows(lines: Sequence[TableLine]) -> list[str]:
    """Draw name, mean, low and high of each line of a table, as figures that fit a printed page."""
    values = [value for line in lines for value in line[1:4] if value is not None]
    limits = (min(values, default=0.0) - 0.02, max(values, default=1.0) + 0.02)
    reference = next((mean for _, mean, _, _, is_reference in lines if is_reference), None)
    figures = []
    for start in range(0, len(lines), LINES_PER_FIGURE):
        name = f"rows-{start}" if start else "rows"
        figures.append(_plot_lines(name, lines[start : start + LINES_PER_FIGURE], limits, reference))
    return figures


def _plot_lines(name: str, lines: Sequence[TableLine], limits: tuple[float, float], reference: float | None) -> str:
    """Draw some lines of a table, and the mean of the reference as a dashed line."""

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (_, mean, low, high, is_reference) in enumerate(lines):
            colour = COLOURS["second" if is_reference else "accent"]
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
            if mean is not None:
                axes.plot([mean], [place], "o", color=colour, markersize=5)
        if reference is not None:
            axes.axvline(reference, color=COLOURS["second"], linestyle="--", linewidth=1)
        axes.set_yticks(range(len(lines)), [line[0] for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(*limits)
        axes.set_xlabel("macro-F1")
        axes.grid(axis="x")

    return draw(name, "Macro-F1 of each row with its interval", (1.4 * WIDTH, 0.8 + 0.24 * len(lines)), plot)
