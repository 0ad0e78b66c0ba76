"""The files of a run that a report shows, read and checked once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import read_object
from features.errors import InputError
from mervn.data.saved_check import overlap_remarks, read_findings
from mervn.evaluation.intervals import Units, group_units, unit_confusions, unit_name
from mervn.evaluation.saved_predictions import SavedPredictions, evaluate_command, read_predictions
from mervn.run_folder import ENVIRONMENT_FILE, RunConfig, read_config, read_metrics

Array = np.ndarray[Any, Any]
OWN_KEYS = frozenset({"utterance_id", "speaker_id", "label", "prediction", "probabilities"})
"""Keys of a prediction that do not come from the manifest's extra keys."""


@dataclass(frozen=True)
class RunData:
    """A complete run, with the predictions of one split."""

    path: Path
    config: RunConfig
    metrics: Mapping[str, Any]
    """metrics.json: scores on valid, chosen epoch, counts."""
    scores: Mapping[str, Any]
    """Scores on `split`."""
    history: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    split: str
    predictions: SavedPredictions
    test_looks: int | None
    """Number of looks at test that the run records; None if the split is not test."""
    findings: Sequence[Mapping[str, Any]] = ()
    """Findings about the data of the training, and about what test shares with it."""
    remarks: Sequence[str] = ()
    """What could not be compared of test and the training."""


def read_run(run: Path, split: str | None = None) -> RunData:
    """Read the files of a complete run; the split is test if it was evaluated, else valid.

    UsageError if the folder is not a run, InputError if it is incomplete or a file is damaged.
    """
    config = read_config(run)
    if not (run / "metrics.json").is_file():
        raise InputError(f"{run} must be a complete run, but has no metrics.json; the command that began it resumes it")
    metrics = read_metrics(run)
    if split is None:
        split = "test" if (run / "predictions-test.jsonl").is_file() else "valid"
    path = run / f"metrics-{split}.json"
    if path.is_file():  # of valid too, if it was evaluated: the predictions are those of this file
        scores = read_object(path, "the metrics of a split")[split]
    elif split == "valid":
        scores = metrics["valid"]
    else:
        raise InputError(f"{path} does not exist; evaluate it first:\n  {evaluate_command(run, split)}")
    environment = read_object(run / ENVIRONMENT_FILE, "the environment of a run")
    history = _read_lines(run / "history.jsonl")
    looks = len(_read_lines(run / "test_access.jsonl")) if split == "test" else None
    command = evaluate_command(run, split)
    predictions = read_predictions(run, config, split, command)
    findings, remarks = read_findings(run, split), overlap_remarks(run) if split == "test" else []
    return RunData(run, config, metrics, scores, history, environment, split, predictions, looks, findings, remarks)


def group_confusions(predictions: SavedPredictions, units: Units) -> Array:
    """Return the confusion matrix of each unit, (G, C, C) int64."""
    num_classes = predictions.probabilities.shape[1]
    return unit_confusions(predictions.targets, predictions.predictions, units, num_classes)


def speakers(predictions: SavedPredictions) -> Units:
    """Group the utterances by speaker."""
    return group_units([entry.get("speaker_id") for entry in predictions.entries])


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file of objects; an absent file has none. InputError names a damaged line."""
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number} must be a JSON object, found {line[:60]!r}: {error}") from error
        if not isinstance(entry, dict):
            raise InputError(f"{path}:{number} must be a JSON object, found {line[:60]!r}")
        entries.append(entry)
    return entries


def group_keys(predictions: SavedPredictions, maximum: int = 12) -> list[str]:
    """Return the extra keys that group the utterances: text values, 2 to `maximum` different ones."""
    keys: list[str] = []
    for key in predictions.entries[0]:
        values = [entry.get(key) for entry in predictions.entries]
        is_text = all(isinstance(value, str) for value in values)
        if key not in OWN_KEYS and is_text and 2 <= len(set(map(unit_name, values))) <= maximum:
            keys.append(key)
    return keys
