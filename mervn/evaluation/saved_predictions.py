"""Reading of predictions-<split>.jsonl, with every fault of the file named by its line."""

from __future__ import annotations

import hashlib
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
from mervn.run_folder import METRICS_FILE, MODEL_FILE, RunConfig

Array = np.ndarray[Any, Any]
CONTENT = "content of the "
"""Beginning of the keys of the hashes of audio and transcripts in the sources of predictions."""
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
    """Hash of the manifest, or number and hash of the fold; hashes of audio and transcripts; as far as recorded."""


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
    index = {label: number for number, label in enumerate(config.labels)}
    try:
        entries = read_entries(path, split, command, config.labels)
    except FileNotFoundError as error:
        raise InputError(f"{run} has no predictions for {split}; evaluate it first:\n  {command}") from error
    sources = _sources(path, config, split)
    if config.options.get("fold") is not None and "manifest_sha256" in sources:
        raise InputError(
            f"{path} must be of fold {config.options['fold']}, but an earlier version scored {split}.jsonl; "
            f"evaluate the run again:\n  {command}"
        )
    targets = np.array([index[entry["label"]] for entry in entries], np.int64)
    predictions = np.array([index[entry["prediction"]] for entry in entries], np.int64)
    probabilities = np.empty((len(entries), len(index)))
    for number, entry in enumerate(entries):
        probabilities[number] = [entry["probabilities"][label] for label in index]
    return SavedPredictions(path, entries, targets, predictions, probabilities, sources)


def read_entries(path: Path, split: str, command: str, labels: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Read a file of predictions and compare it with the metrics beside it.

    labels: those of the run; None for those of the first line. Raises FileNotFoundError if there is no
    file. Raises InputError, which suggests `command`, if it is damaged, if an utterance occurs twice,
    if it is of other weights than the run, or if it does not give the number of utterances and the
    confusion matrix that were recorded.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} must hold predictions, but cannot be read: {error}") from error
    entries: list[dict[str, Any]] = []
    known: dict[str, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            entry = _parse(line, labels)
            labels = labels or list(entry["probabilities"])
            first = known.setdefault(entry["utterance_id"], number)
            if first != number:
                raise ValueError(f"utterance_id must occur once, found {entry['utterance_id']!r} in line {first} too")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: {error}; evaluate the run again:\n  {command}") from error
        entries.append(entry)
    document, is_of_training = _metrics_beside(path, split)
    _refuse_other_model(path, document.get("trained_model_sha256" if is_of_training else "model_sha256"), command)
    scores = document.get(split)
    recorded = scores if isinstance(scores, dict) else {}
    expected = recorded.get("n") if isinstance(recorded.get("n"), int) else None
    if not entries or (expected is not None and len(entries) != expected):
        count = "at least one utterance" if expected is None else f"the {expected} utterances that were scored"
        raise InputError(f"{path} must hold {count}, found {len(entries)}; evaluate the run again:\n  {command}")
    if "confusion" in recorded and recorded["confusion"] != _confusion(entries, labels or ()):
        raise InputError(f"{path} must give the scores of the run, but does not; evaluate it again:\n  {command}")
    return entries


def _refuse_other_model(path: Path, recorded: str | None, command: str) -> None:
    """Raise InputError if predictions are of other weights than those of the run, by the hash that is recorded.

    An evaluation that ended after the run was trained again leaves such files.
    """
    model = path.with_name(MODEL_FILE)
    if recorded is not None and model.is_file() and recorded != hashlib.sha256(model.read_bytes()).hexdigest():
        raise InputError(
            f"{path} must be of the weights in {model}, but these have changed since; "
            f"evaluate the run again:\n  {command}"
        )


def _confusion(entries: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[list[int]]:
    """Return counts, [true label][predicted label], in the order of the labels."""
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(index), len(index)), np.int64)
    for entry in entries:
        counts[index[entry["label"]], index[entry["prediction"]]] += 1
    found: list[list[int]] = counts.tolist()
    return found


def _parse(line: bytes, labels: Sequence[str] | None) -> dict[str, Any]:
    """Return the object of one line; ValueError says what is wrong with it.

    labels: None for those of the probabilities of this line.
    """
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"must be one JSON object, found: {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("utterance_id"), str):
        raise ValueError("must be a JSON object with an utterance_id")
    probabilities = entry.get("probabilities")
    if labels is None:
        labels = list(probabilities) if isinstance(probabilities, dict) else []
    for key in ("label", "prediction"):
        if not isinstance(entry.get(key), str) or entry[key] not in labels:
            raise ValueError(f"{key} must be one of the run's labels {', '.join(labels)}, found {entry.get(key)!r}")
    if not isinstance(probabilities, dict) or set(probabilities) != set(labels):
        raise ValueError(f"probabilities must have a value for each of {', '.join(labels)}, found {probabilities!r}")
    numbers = list(probabilities.values())
    if not all(map(_is_probability, numbers)) or abs(sum(numbers) - 1) > SUM_TOLERANCE:
        raise ValueError(f"probabilities must be 0 or more and sum to 1, found {numbers}")
    if probabilities[entry["prediction"]] != max(numbers):
        raise ValueError(f"prediction must be a most probable label, found {entry['prediction']!r} of {probabilities}")
    return entry


def _is_probability(value: Any) -> bool:
    """Tell whether a value of a JSON document is a number from 0 to 1."""
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def _metrics_beside(path: Path, split: str) -> tuple[dict[str, Any], bool]:
    """Return the metrics that were written with a file of predictions, and whether training wrote them.

    They are in metrics-<split>.json; for the valid split of a training, in metrics.json. Empty if
    neither file exists.
    """
    evaluated = path.with_name(path.name.replace("predictions-", "metrics-", 1)).with_suffix(".json")
    if evaluated.is_file():
        return read_object(evaluated, "the metrics of a run"), False
    if split == "valid" and path.with_name(METRICS_FILE).is_file():
        return read_object(path.with_name(METRICS_FILE), "the metrics of a run"), True
    return {}, False


def _sources(path: Path, config: RunConfig, split: str) -> dict[str, Any]:
    """Return the hashes of what a file of predictions was computed from; empty if none is recorded.

    For the valid split of a training, they are in config.json.
    """
    document, is_of_training = _metrics_beside(path, split)
    content = document.get("content_sha256")
    found = (
        {f"{CONTENT}{modality}": sha256 for modality, sha256 in content.items()} if isinstance(content, dict) else {}
    )
    if is_of_training:
        return found | _trained_on(config)
    return found | {key: document[key] for key in ("manifest_sha256", "fold", "folds_sha256") if key in document}


def _trained_on(config: RunConfig) -> dict[str, Any]:
    """Return the hashes of the valid split of a training, in the form of metrics-valid.json."""
    if config.options.get("fold") is not None:
        folds = config.inputs["folds"]
        return {"fold": int(config.options["fold"]), "folds_sha256": folds["sha256"]}
    manifests = config.inputs.get("manifests", {})
    return {"manifest_sha256": manifests["valid"]} if isinstance(manifests, dict) and "valid" in manifests else {}
