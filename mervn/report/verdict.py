"""The sentences of a report: its verdict, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mervn.evaluation.intervals import METRICS, MIN_INTERVAL_UNITS, MIN_TEST_UNITS, Interval, Units, score
from mervn.report.run_data import Predictions, RunData

SMALL_SPLIT = 100
"""Below this many utterances a split cannot tell similar models apart."""
DOMINANT = 0.6
"""G* / G below which a few units decide the score."""


@dataclass(frozen=True)
class Baseline:
    """Scores without a model."""

    chance: float
    """Of labels drawn uniformly, in expectation of its confusion matrix."""
    majority: float
    """Of always the most frequent label."""


def baselines(predictions: Predictions) -> dict[str, Baseline]:
    """Return the scores of chance and of the most frequent label, by metric."""
    num_classes = predictions.probabilities.shape[1]
    support = np.bincount(predictions.targets, minlength=num_classes)
    chance = np.repeat(support[:, None] / num_classes, num_classes, axis=1)  # (C, C)
    majority = np.zeros_like(chance)
    majority[:, support.argmax()] = support
    found = {}
    for metric in METRICS:
        found[metric] = Baseline(float(score(chance, metric)), float(score(majority, metric)))
    return found


def verdict(data: RunData, units: Units, intervals: Mapping[str, Interval | None]) -> str:
    """Return the sentence that says how well the run does, and how sure that is."""
    split, value, interval = data.predictions.split, float(data.scores["macro_f1"]), intervals["macro_f1"]
    constant = baselines(data.predictions)["macro_f1"].majority
    sentence = f"macro-F1 is {value:.3f} on {split}"
    if interval is None:
        few = f"{units.num} {_plural(units)} are too few (at least {MIN_INTERVAL_UNITS})"
        return f"{sentence}. There is no interval: {few}."
    bounds = f"from {interval.low:.3f} to {interval.high:.3f}"
    sentence += f", with a 95 % interval {bounds} over {units.num} {_plural(units)}."
    if interval.low > constant:
        return f"{sentence} That is more than always the same label scores ({constant:.3f})."
    return f"{sentence} It is not shown to be more than always the same label scores ({constant:.3f})."


def warnings(data: RunData, units: Units, intervals: Mapping[str, Interval | None]) -> list[str]:
    """Return what weakens the result, most important first."""
    found = []
    predictions, split = data.predictions, data.predictions.split
    if split == "valid":
        found.append("The epoch was chosen on valid, so these scores are optimistic. Only test counts for a claim.")
    if units.independent:
        found.append(
            "The speakers are unknown, or each speaks once: the intervals assume independent utterances and are too "
            "narrow if speakers have effects."
        )
    elif units.num < MIN_TEST_UNITS:
        found.append(f"{units.num} {_plural(units)} are too few to test a difference between two models.")
    elif units.effective < DOMINANT * units.num:
        found.append(
            f"A few speakers have most of the utterances: {units.num} {_plural(units)} count as {units.effective:.1f}."
        )
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


def _plural(units: Units) -> str:
    return f"{units.name.removesuffix('_id')}s"
