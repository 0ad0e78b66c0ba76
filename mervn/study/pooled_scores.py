"""Predictions of the cells of a study, pooled over folds and counted per speaker for each seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import read_object
from features.errors import InputError
from features.regular_files import read_regular
from mervn.evaluation.intervals import Units, group_units, score, unit_confusions
from mervn.evaluation.saved_predictions import evaluate_command, read_entries
from mervn.run_folder import ENVIRONMENT_FILE, METRICS_FILE, MODEL_FILE
from mervn.study.cells import Cell

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pooled:
    """Predictions of one candidate on one split, counted per unit."""

    keys: tuple[tuple[int | None, str], ...]
    """Fold and id of the N utterances, in the same order for every seed."""
    labels: tuple[str, ...]
    units: Units
    confusions: Mapping[int, Array]
    """By seed, the counts (G, C, C) int64."""
    targets: Array
    """True class of each utterance, (N,) int64 in 0..C-1."""
    has_seeds: bool = True
    """False for predictions without randomness: one matrix, which stands for every seed."""

    def scores(self, metric: str) -> list[float]:
        """Return the score of each seed, over all units."""
        return [float(score(counts.sum(0), metric)) for counts in self.confusions.values()]

    def stacked(self, seeds: Sequence[int]) -> Array:
        """Return the counts (G, K, C, C) of K seeds."""
        return np.stack([self._counts(seed) for seed in seeds], axis=1)

    def _counts(self, seed: int) -> Array:
        return self.confusions[seed] if self.has_seeds else next(iter(self.confusions.values()))

    def is_like(self, other: Pooled) -> bool:
        """Tell whether both scored the same utterances, with the same number of classes."""
        return self.keys == other.keys and len(self.labels) == len(other.labels)

    def comparable(self, other: Pooled) -> list[int]:
        """Return the seeds that both have; none if they scored other utterances.

        Predictions without seeds are compared with every seed of the others.
        """
        if (self.keys, self.labels) != (other.keys, other.labels):
            return []
        if self.has_seeds and other.has_seeds:
            seeds = [seed for seed in self.confusions if seed in other.confusions]
        else:
            seeds = list((self if self.has_seeds else other).confusions)
        for seed in seeds:  # an axis can change the labels, such as label-map
            if not np.array_equal(self._counts(seed).sum(-1), other._counts(seed).sum(-1)):
                return []
        return seeds


def pool(cells: Sequence[Cell], complete: frozenset[str], split: str, unit: str) -> Pooled | None:
    """Count the predictions of the seeds whose folds are all complete."""
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    entries: dict[int, dict[tuple[int | None, str], dict[str, Any]]] = {}
    for seed, folds in by_seed.items():
        if all(cell.name in complete for cell in folds):
            entries[seed] = {}
            for cell in folds:
                for entry in read_predictions(cell.run, split):
                    entries[seed][cell.fold, str(entry["utterance_id"])] = entry
    if not entries:
        return None
    first = next(iter(entries.values()))
    for seed, of_seed in entries.items():
        if of_seed.keys() != first.keys():
            raise InputError(
                f"all seeds must have predictions of the same utterances, found others for seed {seed} in "
                f"{by_seed[seed][0].run.parent}; train these cells again with another --output"
            )
        entries[seed] = {key: of_seed[key] for key in first}  # units are in the order of the first seed
        other = [key for key in first if of_seed[key]["label"] != first[key]["label"]]
        if other:
            raise InputError(
                f"{by_seed[seed][0].run.parent} must have the same label of each utterance in all seeds, found another "
                f"label of {other[0][1]!r} for seed {seed}; train these cells again with another --output"
            )
    labels = sorted({label for entry in first.values() for label in entry["probabilities"]})
    units = group_units([entry.get(unit) for entry in first.values()], unit)
    confusions = {}
    for seed, of_seed in entries.items():
        targets, predictions = (_classes(of_seed.values(), key, labels) for key in ("label", "prediction"))
        confusions[seed] = unit_confusions(targets, predictions, units, len(labels))
    return Pooled(tuple(first), tuple(labels), units, confusions, _classes(first.values(), "label", labels))


def _classes(entries: Iterable[Mapping[str, Any]], key: str, labels: Sequence[str]) -> Array:
    """Return the class (N,) int64 of each entry: its label, or its prediction."""
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[entry[key]] for entry in entries], np.int64)


def predictions_file(run: Path, split: str) -> Path | None:
    """Return the predictions of a run on a split; None if there are none.

    With utterances missing in the split, the name of the file has a hash of the inputs.
    """
    own = run / f"predictions-{split}.jsonl"
    digits = "[0-9a-f]" * 8  # not the predictions without a modality
    others = sorted(run.glob(f"predictions-{split}-{digits}.jsonl"))
    if own.is_file():
        return own
    if len(others) > 1:
        raise InputError(
            f"{run} must hold the predictions of one {split} split, found {len(others)}; remove all others"
        )
    return others[0] if others else None


def read_predictions(run: Path, split: str) -> list[dict[str, Any]]:
    """Read the predictions of a run on a split.

    InputError if they are missing or damaged, or if the run no longer has the weights that its training wrote.
    """
    trained = read_object(run / METRICS_FILE, "the metrics of a run").get("trained_model_sha256")
    has_model = (run / MODEL_FILE).is_file()  # it may be deleted, to save space
    if trained is not None and has_model and hashlib.sha256(read_regular(run / MODEL_FILE)).hexdigest() != trained:
        raise InputError(
            f"{run / MODEL_FILE} must hold the weights that the training wrote, but they have changed since; remove "
            f"{run} to train it again"
        )
    path = predictions_file(run, split)
    if path is None:
        raise InputError(f"{run} must hold predictions-{split}.jsonl, but it does not exist")
    return read_entries(path, split, evaluate_command(run, split))


def read_run(run: Path) -> tuple[dict[str, Any], float]:
    """Return the metrics of a complete run and its training time in seconds."""
    metrics = json.loads((run / METRICS_FILE).read_text("utf-8"))
    environment = json.loads((run / ENVIRONMENT_FILE).read_text("utf-8"))
    return metrics, float(environment["seconds"])
