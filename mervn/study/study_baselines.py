"""Baselines that a study adds to its rows: a linear head on the same features, and the majority.

A claim about a fusion needs both: a row that does not beat logistic regression on the time-means of
its own features has learned nothing from their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mervn.config import TrainHeadOptions
from mervn.evaluation.intervals import unit_confusions
from mervn.registry import FUSIONS
from mervn.study.cells import Candidate, Row, identity_of, resolve_candidate
from mervn.study.pooled_scores import Pooled

LABEL_OPTIONS = ("labels", "label_map", "drop_label")
"""Options that decide the labels of a cell."""
Answers = Mapping[tuple[str, int | None], str]
"""The most frequent label of train, by `label_key` and fold."""


def add_linear(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, then a row with a linear head for each distinct set of features in them.

    The linear head reads the same modalities, encoders, labels and utterances as the row, so two
    rows that differ only in what it does not read have the same one. Each row gets its number. If
    the grid already has that row, none is added.
    """
    found = list(rows)
    numbers = {identity_of(row.candidates): number for number, row in enumerate(rows)}
    for number, row in enumerate(rows):
        candidates = _linear_candidates(row)
        if not candidates:
            continue
        identity = identity_of(candidates)
        if identity not in numbers:
            numbers[identity] = len(found)
            found.append(Row(_linear_axes(row, candidates[0]), candidates, is_reference=False, is_baseline=True))
        if numbers[identity] != number:
            found[number] = replace(row, linear=numbers[identity])
    return found


def linear_fusion(modalities: Sequence[str]) -> str | None:
    """Return the name of the linear fusion that reads these modalities; None if there is none."""
    for name, spec in FUSIONS.items():
        if spec.linear and set(spec.streams) == set(modalities):
            return name
    return None


def _linear_candidates(row: Row) -> list[Candidate]:
    """Return the candidates of a row with a linear head; none if they read other modalities."""
    streams = {candidate.resolved.fusion.streams for candidate in row.candidates}
    fusion = linear_fusion(next(iter(streams))) if len(streams) == 1 else None
    if fusion is None:
        return []
    found: dict[str, Candidate] = {}
    for candidate in row.candidates:
        linear = resolve_candidate(candidate.options.model_copy(update={"fusion": fusion}), candidate.tuned)
        found.setdefault(linear.identity, linear)
    return list(found.values())


def _linear_axes(row: Row, candidate: Candidate) -> dict[str, Any]:
    """Return the values of a row on all axes that its linear head reads; None on the others."""
    axes: dict[str, Any] = {}
    for name, value in row.axes.items():
        axes[name] = None if name in candidate.resolved.unread or name == "pooling" else value
        if name == "fusion":
            axes[name] = candidate.options.fusion
    return axes


def label_key(options: TrainHeadOptions) -> str:
    """Return a text that is equal for options that give the same labels."""
    return repr([getattr(options, name) for name in LABEL_OPTIONS])


def most_frequent(labels: Iterable[str]) -> str:
    """Return the most frequent label, of equal ones the first by name."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def majority_row(row: Row) -> Row:
    """Return the row of the majority on the labels of a row."""
    axes = {name: value if name in LABEL_OPTIONS else None for name, value in row.axes.items()}
    if "fusion" in axes:
        axes["fusion"] = "majority"
    return Row(axes, (), is_reference=False, is_baseline=True)


def majority_predictions(scored: Pooled, key: str, answers: Answers) -> Pooled:
    """Return the predictions of always answering the most frequent label of train of each fold.

    The utterances are those of `scored`.
    """
    index = {label: number for number, label in enumerate(scored.labels)}
    predictions = np.array([index[answers[key, fold]] for fold, _ in scored.keys], np.int64)
    counts = unit_confusions(scored.targets, predictions, scored.units, len(scored.labels))
    return replace(scored, confusions={0: counts}, has_seeds=False)
