"""Reading of predictions-<split>.jsonl, with every fault of the file named by its line."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import read_object
from features.errors import InputError
from features.regular_files import read_regular
from mervn.run_folder import METRICS_FILE, RunConfig

Array = np.ndarray[Any, Any]
SUM_TOLERANCE = 1e-3
"""Maximum distance from 1 of the sum of an utterance's probabilities."""


@dataclass(frozen=True)
class SavedPredictions:
    """The predictions of one run for N utterances of a split."""

    path: Path
    entries: Sequence[Mapping[str, Any]]
    """One object per utterance, in the order of the file."""
    targets: Array
    """(N,) int64: indices into the labels."""
    predictions: Array
    """(N,) int64: indices into the labels."""
    probabilities: Array
    """(N, C) float64."""
    sources: Mapping[str, Any]
    """Hash of the manifest, or number and hash of the fold; empty if none is recorded."""


def predictions_path(run: Path, split: str) -> Path:
    """Return the file of a run's predictions for its own split."""
    return run / f"predictions-{split}.jsonl"


def evaluate_command(path: Path, split: str) -> str:
    """Return the command that writes the predictions of a run, or of all runs of a series."""
    return shlex.join(["mervn", "evaluate", str(path), "--split", split])


def read_predictions(run: Path, config: RunConfig, split: str, command: str) -> SavedPredictions:
    """Read the predictions of a run for its own split.

    Raises InputError, which suggests `command`, if the file is missing, incomplete or damaged, or
    if it holds other labels than the run.
    """
    path = predictions_path(run, split)
    try:
        content = read_regular(path)
    except FileNotFoundError as error:
        raise InputError(f"{run} has no predictions for {split}; evaluate it first:\n  {command}") from error
    except OSError as error:
        raise InputError(f"{path} must hold predictions, but cannot be read: {error}") from error
    index = {label: number for number, label in enumerate(config.labels)}
    entries: list[dict[str, Any]] = []
    known: dict[str, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            entry = _parse(line, index)
            first = known.setdefault(entry["utterance_id"], number)
            if first != number:
                raise ValueError(f"utterance_id must occur once, found {entry['utterance_id']!r} in line {first} too")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: {error}; evaluate the run again:\n  {command}") from error
        entries.append(entry)
    expected, sources = _recorded(run, config, split)
    if not entries or (expected is not None and len(entries) != expected):
        count = "at least one utterance" if expected is None else f"the {expected} utterances that were scored"
        raise InputError(f"{path} must hold {count}, found {len(entries)}; evaluate the run again:\n  {command}")
    targets = np.array([index[entry["label"]] for entry in entries], np.int64)
    predictions = np.array([index[entry["prediction"]] for entry in entries], np.int64)
    probabilities = np.empty((len(entries), len(index)))
    for number, entry in enumerate(entries):
        probabilities[number] = [entry["probabilities"][label] for label in index]
    return SavedPredictions(path, entries, targets, predictions, probabilities, sources)


def _parse(line: bytes, labels: Mapping[str, int]) -> dict[str, Any]:
    """Return the object of one line; ValueError says what is wrong with it."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"must be one JSON object, found: {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("utterance_id"), str):
        raise ValueError("must be a JSON object with an utterance_id")
    for key in ("label", "prediction"):
        if not isinstance(entry.get(key), str) or entry[key] not in labels:
            raise ValueError(f"{key} must be one of the run's labels {', '.join(labels)}, found {entry.get(key)!r}")
    probabilities = entry.get("probabilities")
    if not isinstance(probabilities, dict) or set(probabilities) != set(labels):
        raise ValueError(f"probabilities must have a value for each of {', '.join(labels)}, found {probabilities!r}")
    numbers = list(probabilities.values())
    if not all(map(_is_probability, numbers)) or abs(sum(numbers) - 1) > SUM_TOLERANCE:
        raise ValueError(f"probabilities must be 0 or more and sum to 1, found {numbers}")
    return entry


def _is_probability(value: Any) -> bool:
    """Tell whether a value of a JSON document is a number from 0 to 1."""
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def _recorded(run: Path, config: RunConfig, split: str) -> tuple[int | None, dict[str, Any]]:
    """Return the number of utterances that were scored, and the hashes of what they were read from.

    Both come from metrics-<split>.json; for the valid split of a training, from metrics.json and
    config.json. None and an empty dict if neither file records them.
    """
    path = run / f"metrics-{split}.json"
    sources: dict[str, Any] = {}
    if path.is_file():
        document = read_object(path, "the metrics of a run")
        for key in ("manifest_sha256", "fold", "folds_sha256"):
            if key in document:
                sources[key] = document[key]
    elif split == "valid" and (run / METRICS_FILE).is_file():
        document = read_object(run / METRICS_FILE, "the metrics of a run")
        sources = _trained_on(config)
    else:
        return None, {}
    scores = document.get(split)
    count = scores.get("n") if isinstance(scores, dict) else None
    return (count if isinstance(count, int) else None), sources


def _trained_on(config: RunConfig) -> dict[str, Any]:
    """Return the hashes of the valid split of a training, in the form of metrics-valid.json."""
    if config.options.get("fold") is not None:
        folds = config.inputs["folds"]
        return {"fold": int(config.options["fold"]), "folds_sha256": folds["sha256"]}
    manifests = config.inputs.get("manifests", {})
    return {"manifest_sha256": manifests["valid"]} if isinstance(manifests, dict) and "valid" in manifests else {}
