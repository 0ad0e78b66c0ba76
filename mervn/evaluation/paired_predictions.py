"""Saved predictions of two runs or series, paired by seed, fold and utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError, UsageError
from features.suggestions import did_you_mean
from mervn.evaluation.intervals import unit_name
from mervn.evaluation.saved_predictions import CONTENT, SavedPredictions, evaluate_command, read_predictions
from mervn.evaluation.series import Key, Series

Array = np.ndarray[Any, Any]
RESULT_KEYS = ("label", "prediction", "probabilities")
"""Keys of saved predictions that are no units of evidence."""
SHOWN = 3
"""Maximum number of utterances that a message names."""


@dataclass(frozen=True)
class PairedPredictions:
    """Predictions of A and B for the same N utterances, by seed."""

    labels: Sequence[str]
    seeds: Sequence[tuple[int, int]]
    """Seed of A and seed of B of each pair; they are equal, except for two single runs."""
    left_out: Sequence[str]
    """Seeds that only A or only B has, such as `seed 3 of runs/a`."""
    targets: Array
    """(N,) int64: indices into the labels; the utterances of all folds, one fold after the other."""
    a: Sequence[Array]
    """For each seed the predictions of A, (N,) int64."""
    b: Sequence[Array]
    """For each seed the predictions of B, (N,) int64."""
    units: Mapping[str, list[Any]]
    """By key of --unit, the value of each utterance."""
    entries: Sequence[Mapping[str, Any]]
    """The saved prediction of the first run of A for each utterance, with its extra keys."""
    probabilities_a: Array
    """(N, C) float64: mean over the seeds of A."""
    probabilities_b: Array
    """(N, C) float64: mean over the seeds of B."""


def pair_predictions(a: Series, b: Series, split: str, units: Sequence[str]) -> PairedPredictions:
    """Read and pair the saved predictions of two runs or series for a split.

    Raises InputError if predictions are missing or damaged, or if A and B have other labels, folds,
    seeds, test sets, utterances or true labels, or if predictions lack a key of `units`.
    """
    _require_equal_labels(a, b)
    if a.folds != b.folds:
        raise InputError(f"A and B must have the same folds, but {a.path} has {_folds(a)} and {b.path} has {_folds(b)}")
    seeds, left_out = _pair_seeds(a, b)
    read_a, read_b = _read(a, [seed for seed, _ in seeds], split), _read(b, [seed for _, seed in seeds], split)
    reference = [read_a[seeds[0][0], fold] for fold in a.folds]
    partner = [read_b[seeds[0][1], fold] for fold in b.folds]
    values = {}
    for key in units:
        unit_values(partner, key, b.path, split)  # B must have the key too
        values[key] = unit_values(reference, key, a.path, split)
    joined_a, joined_b = [], []
    for seed_a, seed_b in seeds:
        joined_a.append(_joined(reference, [read_a[seed_a, fold] for fold in a.folds], units))
        joined_b.append(_joined(reference, [read_b[seed_b, fold] for fold in a.folds], units))
    targets = np.concatenate([fold.targets for fold in reference])
    entries = [entry for fold in reference for entry in fold.entries]
    return PairedPredictions(
        a.first.labels, seeds, left_out, targets, [found for found, _ in joined_a], [found for found, _ in joined_b],
        values, entries, _mean_probabilities(joined_a), _mean_probabilities(joined_b),
    )  # fmt: skip


def _mean_probabilities(joined: Sequence[tuple[Array, Array]]) -> Array:
    """Return the mean over seeds of the probabilities (N, C)."""
    mean: Array = np.mean([probabilities for _, probabilities in joined], axis=0)
    return mean


def _require_equal_labels(a: Series, b: Series) -> None:
    """Raise InputError if A and B classify other labels."""
    of_a, of_b = list(a.first.labels), list(b.first.labels)
    if of_a != of_b:
        raise InputError(
            f"A and B must have the same labels, but {a.path} has {', '.join(of_a)} and {b.path} has {', '.join(of_b)}"
        )


def _folds(series: Series) -> str:
    """Return the folds of a series for messages."""
    numbers = [str(fold) for fold in series.folds if fold is not None]
    return f"fold {', '.join(numbers)}" if numbers else "none"


def _pair_seeds(a: Series, b: Series) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the pairs of seeds, and the seeds that have no partner.

    Two runs of one seed each are a pair, even if the seeds differ.
    """
    if len(a.seeds) == len(b.seeds) == 1:
        return [(a.seeds[0], b.seeds[0])], []
    common = sorted(set(a.seeds) & set(b.seeds))
    if not common:
        raise InputError(
            f"A and B must have seeds in common, but {a.path} has {', '.join(map(str, a.seeds))} "
            f"and {b.path} has {', '.join(map(str, b.seeds))}"
        )
    left_out = []
    for series in (a, b):
        left_out += [f"seed {seed} of {series.path}" for seed in series.seeds if seed not in common]
    return [(seed, seed) for seed in common], left_out


def _read(series: Series, seeds: Sequence[int], split: str) -> dict[Key, SavedPredictions]:
    """Return the saved predictions of a run or series, by seed and fold."""
    command = evaluate_command(series.path, split)
    found = {}
    for key, run in series.runs.items():
        if key[0] in seeds:
            found[key] = read_predictions(run, series.configs[key], split, command)
    return found


def unit_values(folds: Sequence[SavedPredictions], key: str, path: Path, split: str) -> list[Any]:
    """Return the value of a key for each utterance.

    UsageError for a key that is a result, InputError if no utterance has the key.
    """
    if key in RESULT_KEYS:
        raise UsageError(f"--unit must name keys of the manifest, such as speaker_id, found {key!r}, which is a result")
    values = [entry.get(key) for fold in folds for entry in fold.entries]
    known = list(dict.fromkeys(name for fold in folds for entry in fold.entries for name in entry))
    if key not in known:
        raise InputError(
            f"--unit must name keys of the predictions, but {folds[0].path} has no {key!r}"
            f"{did_you_mean(key, known)}; if it is a key of the manifest, save it with the predictions:"
            f"\n  {evaluate_command(path, split)} --unit {key}"
        )
    return values


def _joined(
    reference: Sequence[SavedPredictions], folds: Sequence[SavedPredictions], units: Sequence[str]
) -> tuple[Array, Array]:
    """Return predictions (N,) int64 and probabilities (N, C) of all folds, in the order of the reference.

    InputError unless both have the same test sets, utterances, true labels and units.
    """
    predictions, probabilities = [], []
    for first, other in zip(reference, folds, strict=True):
        require_same_source(first, other)
        order = order_of(first, other, units)
        predictions.append(other.predictions[order])
        probabilities.append(other.probabilities[order])
    return np.concatenate(predictions), np.concatenate(probabilities)


def require_same_source(first: SavedPredictions, other: SavedPredictions) -> None:
    """Raise InputError if two files hold predictions for other folds or other versions of a split."""
    folds = first.sources.get("fold"), other.sources.get("fold")
    if None not in folds and folds[0] != folds[1]:
        raise InputError(
            f"all predictions must be for one fold, but {first.path} is of fold {folds[0]} and {other.path} of fold "
            f"{folds[1]}"
        )
    same_ids = _ids(first) == _ids(other)
    for key in sorted(first.sources.keys() | other.sources.keys()):
        one, two = first.sources.get(key), other.sources.get(key)
        if key.startswith(CONTENT) and (one is None or two is None or not same_ids):
            # one of them does not read this modality, or an earlier version wrote it; `order_of` names other utterances
            continue
        if first.sources and other.sources and one != two:
            raise InputError(
                f"all predictions must be for the same data, but {first.path} and {other.path} differ in {key} "
                f"({one} and {two}); evaluate both again, or train again what was trained on the older valid split"
            )


def _ids(predictions: SavedPredictions) -> set[str]:
    """Return the ids of the utterances."""
    return {entry["utterance_id"] for entry in predictions.entries}


def order_of(first: SavedPredictions, other: SavedPredictions, units: Sequence[str]) -> Array:
    """Return the position in `other` of each utterance of `first`, (N,) int64."""
    position = {entry["utterance_id"]: number for number, entry in enumerate(other.entries)}
    missing = [entry["utterance_id"] for entry in first.entries if entry["utterance_id"] not in position]
    known = _ids(first)
    added = [name for name in position if name not in known]
    if missing or added:
        raise InputError(
            f"all predictions must be for the same utterances, but {_only(first.path, missing)}"
            f"{' and ' if missing and added else ''}{_only(other.path, added)}"
        )
    order = np.array([position[entry["utterance_id"]] for entry in first.entries], np.int64)
    for entry, number in zip(first.entries, order.tolist(), strict=True):
        same = other.entries[number]
        for key in ("label", *units):
            if unit_name(entry.get(key)) != unit_name(same.get(key)):
                raise InputError(
                    f"all predictions must have the same {key} of each utterance, but {entry['utterance_id']!r} has "
                    f"{entry.get(key)!r} in {first.path} and {same.get(key)!r} in {other.path}"
                )
    return order


def _only(path: Path, names: Sequence[str]) -> str:
    """Return which utterances only one file has, for messages; empty if there are none."""
    if not names:
        return ""
    return f"only {path} has {len(names)} of them, such as {', '.join(map(repr, names[:SHOWN]))}"
