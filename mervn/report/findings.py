"""The sentences of a report: its verdict, and what a reader must know before believing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from features.counts import counted
from features.errors import name_some
from mervn.evaluation.baselines import majority_scores
from mervn.evaluation.intervals import Interval, Units
from mervn.evaluation.verdict import CHOSEN_ON_VALID, count_units, no_interval, weak_units
from mervn.report.run_data import RunData

Array = np.ndarray[Any, Any]

SMALL_SPLIT = 100
"""Below this many utterances a split cannot tell similar models apart."""


def support(data: RunData) -> Array:
    """Return the number of utterances of each label, (C,) int64."""
    return np.bincount(data.predictions.targets, minlength=len(data.config.labels))


def verdict(data: RunData, units: Units, intervals: Mapping[str, Interval | None]) -> str:
    """Return the sentence that says how well the run does, and how sure that is."""
    split, value, interval = data.split, float(data.scores["macro_f1"]), intervals["macro_f1"]
    constant = majority_scores(support(data), data.config.labels)["macro_f1"]
    sentence = f"macro-F1 is {value:.3f} on {split}"
    if interval is None:
        return f"{sentence}. There is {no_interval(count_units(units.name, units.num))}."
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
        found.append(CHOSEN_ON_VALID)
    found += _faults_of_data(data)
    found += [f"Overlap of test with the training: {remark}." for remark in data.remarks]
    found += _weak_evidence(units.name, units.num, units.effective, units.independent)
    found += _small_split(split, len(predictions.entries))
    if data.test_looks is not None and data.test_looks > 1:
        found.append(f"This run was evaluated on test {data.test_looks} times.")
    for name, origin in data.metrics.get("features", {}).items():
        if str(origin).startswith("random"):
            found.append(f"The {name} encoder has random weights: a baseline.")
    if data.scores.get("missing"):
        found.append(f"{data.scores['missing']} utterances of {split} have no features and are not scored.")
    for name, count in data.metrics.get("missing", {}).items():
        if count and name != split:
            found.append(f"{counted(count, 'utterance')} of {name} left out: without features or usable audio.")
    for name, counts in data.metrics.get("dropped", {}).items():
        if counts:
            left_out = ", ".join(f"{count} {label}" for label, count in counts.items())
            found.append(f"Left out of {name}: {left_out}.")
    epochs = [entry["epoch"] for entry in data.history]
    if epochs and data.metrics["selected_epoch"] == epochs[-1]:
        found.append("The chosen epoch is the last one: longer training may score higher.")
    return found


def _faults_of_data(data: RunData) -> list[str]:
    """Return a warning if there are errors or warnings about the data."""
    severe = [each for each in data.findings if each["severity"] != "info"]
    if not severe:
        return []
    counts = Counter(str(each["severity"]) for each in severe)
    number = " and ".join(counted(count, severity) for severity, count in counts.items())
    kinds = list(dict.fromkeys(str(each["id"]) for each in severe))
    return [f"The data has {number}, explained below: {name_some(kinds)}."]


def comparison_warnings(saved: Mapping[str, Any]) -> list[str]:
    """Return what weakens a comparison, the content of comparison.json, most important first."""
    of, found = saved["difference"], []
    if saved["split"] == "valid":
        found.append(CHOSEN_ON_VALID)
    elif saved["split"] == "train":
        found.append("Both models were trained on these utterances: the scores say nothing about others.")
    found += _weak_evidence(of["unit"], of["groups"], of["effective_groups"], of["independent"])
    found += _small_split(saved["split"], saved["n"])
    if saved["over_seeds"] is None:
        found.append(saved["seed_remark"])
    if saved["left_out"]:
        found.append(f"Left out, because the other side has no partner: {', '.join(saved['left_out'])}.")
    return found


def _weak_evidence(unit: str, num: int, effective: float, independent: bool) -> list[str]:
    """Return the objection to the units, if there is one."""
    remark = weak_units(unit, num, effective, independent)
    return [] if remark is None else [remark]


def _small_split(split: str, count: int) -> list[str]:
    """Return a warning for a split with few utterances."""
    return [f"{split} has only {count} utterances."] if count < SMALL_SPLIT else []
