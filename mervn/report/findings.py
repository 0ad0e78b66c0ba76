"""The sentences of a report: its verdict, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mervn.evaluation.baselines import majority_scores
from mervn.evaluation.intervals import MIN_INTERVAL_UNITS, MIN_TEST_UNITS, Interval, Units
from mervn.evaluation.verdict import count_units
from mervn.report.run_data import RunData

Array = np.ndarray[Any, Any]

SMALL_SPLIT = 100
"""Below this many utterances a split cannot tell similar models apart."""
DOMINANT = 0.6
"""G* / G below which a few units decide the score."""


def support(data: RunData) -> Array:
    """Return the number of utterances of each label, (C,) int64."""
    return np.bincount(data.predictions.targets, minlength=len(data.config.labels))


def verdict(data: RunData, units: Units, intervals: Mapping[str, Interval | None]) -> str:
    """Return the sentence that says how well the run does, and how sure that is."""
    split, value, interval = data.split, float(data.scores["macro_f1"]), intervals["macro_f1"]
    constant = majority_scores(support(data), data.config.labels)["macro_f1"]
    sentence = f"macro-F1 is {value:.3f} on {split}"
    if interval is None:
        few = f"{count_units(units.name, units.num)} are too few (at least {MIN_INTERVAL_UNITS})"
        return f"{sentence}. There is no interval: {few}."
    bounds = f"from {interval.low:.3f} to {interval.high:.3f}"
    sentence += f", with a 95 % interval {bounds} over {count_units(units.name, units.num)}."
    if interval.low > constant:
        return f"{sentence} That is more than always the same label scores ({constant:.3f})."
    return f"{sentence} It is not shown to be more than always the same label scores ({constant:.3f})."


def warnings(data: RunData, units: Units, intervals: Mapping[str, Interval | None]) -> list[str]:
    """Return what weakens the result, most important first."""
    found = []
    predictions, split = data.predictions, data.split
    if split == "valid":
        found.append("The epoch was chosen on valid, so these scores are optimistic. Only test counts for a claim.")
    if units.independent:
        found.append(
            "The speakers are unknown, or each speaks once: the intervals assume independent utterances and are too "
            "narrow if speakers have effects."
        )
    elif units.num < MIN_TEST_UNITS:
        found.append(f"{count_units(units.name, units.num)} are too few to test a difference between two models.")
    elif units.effective < DOMINANT * units.num:
        many = count_units(units.name, units.num)
        found.append(f"A few have most of the utterances: {many} count as {units.effective:.1f}.")
    if len(predictions.entries) < SMALL_SPLIT:
        found.append(f"{split} has only {len(predictions.entries)} utterances.")
    if data.test_looks is not None and data.test_looks > 1:
        found.append(f"This run was evaluated on test {data.test_looks} times.")
    for name, origin in data.metrics.get("features", {}).items():
        if str(origin).startswith("random"):
            found.append(f"The {name} encoder has random weights: a baseline.")
    if data.scores.get("missing"):
        found.append(f"{data.scores['missing']} utterances of {split} have no features and are not scored.")
    for name, counts in data.metrics.get("dropped", {}).items():
        if counts:
            left_out = ", ".join(f"{count} {label}" for label, count in counts.items())
            found.append(f"Left out of {name}: {left_out}.")
    epochs = [entry["epoch"] for entry in data.history]
    if epochs and data.metrics["selected_epoch"] == epochs[-1]:
        found.append("The chosen epoch is the last one: longer training may score higher.")
    return found
