"""`ensemble`: mean of the class probabilities of several runs, from their saved predictions.

Members are given, or chosen greedily on valid alone: forward selection of Caruana et al. 2004,
"Ensemble Selection from Libraries of Models", without replacement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import read_object
from features.canonical import canonical_json
from features.errors import InputError, UsageError
from features.progress import SILENT, Reporter
from mervn.config import EnsembleOptions
from mervn.evaluation.evidence import ScoredUtterances, evidence
from mervn.evaluation.intervals import TIE, score
from mervn.evaluation.ledger import Look, record_look
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.paired_predictions import order_of, require_same_source, unit_values
from mervn.evaluation.saved_predictions import SavedPredictions, evaluate_command, read_predictions
from mervn.evaluation.series import read_series
from mervn.run_folder import MODEL_FILE, SCHEMA, RunConfig, write_json, write_jsonl

Array = np.ndarray[Any, Any]
ENSEMBLE_FILE = "ensemble.json"
METRIC = "macro_f1"
"""Metric on valid by which members are chosen."""


@dataclass(frozen=True)
class Candidate:
    """A run that can be a member."""

    path: Path
    config: RunConfig


@dataclass(frozen=True)
class Joined:
    """Saved predictions of several runs for the same N utterances, in the order of the first run."""

    first: SavedPredictions
    probabilities: Sequence[Array]
    """For each run (N, C) float64."""


def ensemble(runs: Sequence[Path], options: EnsembleOptions, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Score the mean of the probabilities of runs on a split and return its metrics.

    Nothing is predicted. Writes ensemble.json, metrics-<split>.json and predictions-<split>.jsonl
    into a folder of its own. With `choose`, the members are chosen on valid before predictions for
    test are opened. On test this is a look of its own, recorded in the folder and beside the data
    of the first member. Raises UsageError for fewer than two runs, a run given twice, or a folder
    that holds something else. Raises InputError if predictions are missing or damaged, or if runs
    differ in labels, utterances or data.
    """
    candidates = read_candidates(runs)
    members = list(candidates)
    steps: list[float] = []
    if options.choose:
        valid = join(candidates, "valid", ())
        chosen, steps = choose(valid.first.targets, valid.probabilities, len(candidates[0].config.labels))
        members = [candidates[number] for number in chosen]
    joined = join(members, options.split, options.unit)
    document = {
        "schema": SCHEMA,
        "members": [{"run": str(one.path.resolve()), "hash": one.config.hash} for one in members],
        "candidates": [str(one.path.resolve()) for one in candidates],
        "chosen_on": "valid" if options.choose else None,
        "valid_macro_f1": steps,
    }
    folder = _open_folder(options.output, document)
    looks = record_look(folder, *_look(members, joined), reporter) if options.split == "test" else None
    metrics = _score(folder, joined, members, options)
    if looks is not None:
        metrics["test_looks"] = looks
    return {**document, "folder": str(folder), "metrics": metrics}


def read_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """Return the runs of the folders of runs and of series of seeds, in order."""
    found: list[Candidate] = []
    for path in paths:
        series = read_series(path)
        if len(series.folds) > 1:
            raise UsageError(f"{path} must be a run or a series of seeds, found several folds; name runs of one fold")
        found += [Candidate(run, series.configs[key]) for key, run in series.runs.items()]
    known = set[Path]()
    for one in found:
        if one.path.resolve() in known:
            raise UsageError(f"each run must be given once, found {one.path} twice")
        known.add(one.path.resolve())
        if list(one.config.labels) != list(found[0].config.labels):
            raise InputError(
                f"all runs must have the same labels, but {found[0].path} has {', '.join(found[0].config.labels)} "
                f"and {one.path} has {', '.join(one.config.labels)}"
            )
    _refuse_equal(found)
    if len(found) < 2:
        raise UsageError(f"an ensemble must have two or more runs, found {len(found)}")
    return found


def _refuse_equal(runs: Sequence[Candidate]) -> None:
    """Raise UsageError if two runs are one model: the mean would count it twice."""
    known: dict[tuple[str, str], Path] = {}
    for one in runs:
        model = one.path / MODEL_FILE
        if model.is_file():
            key = one.config.hash, hashlib.sha256(model.read_bytes()).hexdigest()
            if key in known:
                raise UsageError(f"each model must be given once, but {known[key]} and {one.path} are the same")
            known[key] = one.path


def join(runs: Sequence[Candidate], split: str, units: Sequence[str]) -> Joined:
    """Read the saved predictions of runs for a split and join them by utterance id."""
    read = []
    for one in runs:
        read.append(read_predictions(one.path, one.config, split, evaluate_command(one.path, split)))
    for key in units:
        for one, predictions in zip(runs, read, strict=True):
            unit_values([predictions], key, one.path, split)
    probabilities = []
    for predictions in read:
        require_same_source(read[0], predictions)
        probabilities.append(predictions.probabilities[order_of(read[0], predictions, units)])
    return Joined(read[0], probabilities)


def choose(targets: Array, probabilities: Sequence[Array], num_classes: int) -> tuple[list[int], list[float]]:
    """Return the indices of the chosen runs in the order they were added, and macro-F1 after each.

    Starts with the best run. Then adds the run whose addition gives the highest macro-F1 of the
    mean, of equal ones the first, as long as macro-F1 increases.

    targets: (N,) int64 of valid; probabilities: for each run (N, C) float64 of valid.
    """
    chosen: list[int] = []
    scores: list[float] = []
    total = np.zeros_like(probabilities[0])
    while len(chosen) < len(probabilities):
        best, highest = -1, scores[-1] if scores else -1.0
        for number, one in enumerate(probabilities):
            if number not in chosen:
                found = _macro_f1(targets, (total + one).argmax(1), num_classes)
                if found > highest + TIE:
                    best, highest = number, found
        if best < 0:
            break
        chosen.append(best)
        scores.append(highest)
        total = total + probabilities[best]
    return chosen, scores


def _macro_f1(targets: Array, predictions: Array, num_classes: int) -> float:
    """Return macro-F1 of predictions (N,) int64."""
    cells = np.bincount(targets * num_classes + predictions, minlength=num_classes**2)
    return float(score(cells.reshape(num_classes, num_classes), METRIC))


def _open_folder(output: Path | None, document: dict[str, Any]) -> Path:
    """Create the folder and write ensemble.json; UsageError if it holds something else."""
    hashes = sorted(member["hash"] for member in document["members"])
    folder = output or Path("runs") / f"ensemble-{_sha256(hashes)[:8]}"
    path = folder / ENSEMBLE_FILE
    if path.is_file():
        found = read_object(path, "the members of an ensemble").get("members")
        lines = list(map(canonical_json, found if isinstance(found, list) else []))
        if sorted(lines) != sorted(map(canonical_json, document["members"])):
            raise UsageError(f"{folder} holds an ensemble of other members; choose another --output")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} must be a new folder or that of this ensemble; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    return folder


def _look(members: Sequence[Candidate], joined: Joined) -> tuple[Path, Look]:
    """Return the data folder of the first member, and the look at its test split.

    The predictions of the members stand for their weights. The order of the members does not matter.
    """
    predictions = []
    for probabilities in joined.probabilities:
        predictions.append(hashlib.sha256(np.ascontiguousarray(probabilities).tobytes()).hexdigest())
    ids = [entry["utterance_id"] for entry in joined.first.entries]
    sources = [f"{key} {value}" for key, value in joined.first.sources.items()]
    run_hash = _sha256(sorted(one.config.hash for one in members))[:8]
    look = Look(run_hash, _sha256(sorted(predictions)), _sha256([*sorted(sources), *ids]))
    return Path(members[0].config.options["data"]), look


def _sha256(lines: Sequence[str]) -> str:
    """Hash several lines in their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _score(folder: Path, joined: Joined, members: Sequence[Candidate], options: EnsembleOptions) -> dict[str, Any]:
    """Score the mean of the probabilities, and write metrics and predictions."""
    labels, split, targets = list(members[0].config.labels), options.split, joined.first.targets
    mean = np.mean(joined.probabilities, axis=0)  # (N, C)
    units = {key: unit_values([joined.first], key, members[0].path, split) for key in options.unit}
    of_members = []
    for one, probabilities in zip(members, joined.probabilities, strict=True):
        scores = {"macro_f1": _macro_f1(targets, probabilities.argmax(1), len(labels))}
        of_members.append({"run": str(one.path), **scores})
    metrics = {
        "schema": SCHEMA,
        "labels": labels,
        **joined.first.sources,
        split: compute_metrics(targets, mean, labels).as_json(),
        "members": of_members,
        **evidence([ScoredUtterances(targets, mean.argmax(1), units, {})], labels),
    }
    entries = []
    for entry, scores in zip(joined.first.entries, mean.tolist(), strict=True):
        prediction = labels[int(np.argmax(scores))]
        entries.append({**entry, "prediction": prediction, "probabilities": dict(zip(labels, scores, strict=True))})
    write_jsonl(folder / f"predictions-{split}.jsonl", entries)
    write_json(folder / f"metrics-{split}.json", metrics)
    return metrics
