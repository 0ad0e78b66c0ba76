"""Facts about a trained model for people who use it: data, labels, scores with intervals, warnings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import read_object
from features.errors import InputError
from mervn.data.saved_check import CHECK_FILE, read_findings
from mervn.evaluation.evidence import ScoredUtterances, evidence
from mervn.evaluation.saved_predictions import evaluate_command, predictions_path, read_predictions
from mervn.evaluation.verdict import CHOSEN_ON_VALID, METRIC_NAMES, interval_text, weak_units
from mervn.run_folder import MODEL_FILE, read_metrics
from mervn.use.run_model import RunModel

INPUTS = {"audio": "speech", "text": "its transcript"}
SHOWN = ("macro_f1", "uar", "accuracy")
LIKE_TRAINING = (
    "These scores hold for speakers, recordings and topics like those of the data. On other speech they can be much "
    "lower. A probability does not measure the state of a person."
)


@dataclass(frozen=True)
class ModelFacts:
    """Facts about one model, as text."""

    name: str
    """Name of the folder of the run or bundle."""
    reads: str
    """The inputs in words, such as `speech and the transcript`."""
    labels: Sequence[str]
    origin: Sequence[tuple[str, str]]
    """Names and values: data, utterances, encoders, head."""
    split: str
    """Split that the scores are for: test if the model was scored on it, else valid."""
    num: int
    """Number of utterances of the split."""
    scores: Sequence[tuple[str, str, str]]
    """Metric, score, and its 95 % interval or why there is none."""
    baseline: str | None
    """Score of always answering the most frequent label, as a sentence."""
    warnings: Sequence[str]


def read_facts(model: RunModel) -> ModelFacts:
    """Read the facts about a model from its folder; InputError if a file is damaged.

    No look at test is recorded: the scores were computed before.
    """
    try:
        return _facts(model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{model.path} must hold metrics and a check as the commands write them, but a value is missing or of "
            f"another type: {error!r}"
        ) from error


def _facts(model: RunModel) -> ModelFacts:
    """Return the facts; any error if a value has another type."""
    split, document = _read_scores(model)
    units = document.get("units", [])
    scores = []
    for metric in SHOWN:
        interval = document.get("intervals", {}).get(metric)
        shown = interval_text(interval, units)
        if interval is not None:
            shown = f"95 % interval {shown}"
        scores.append((METRIC_NAMES[metric], f"{document[split][metric]:.3f}", shown))
    majority, baseline = document.get("baselines", {}).get("majority"), None
    if majority is not None:
        baseline = f"Always answering {majority['label']} has a macro-F1 of {majority['macro_f1']:.3f}."
    return ModelFacts(
        name=model.path.resolve().name,
        reads=" and ".join(INPUTS[name] for name in INPUTS if name in model.modalities),
        labels=model.labels,
        origin=_origin(model),
        split=split,
        num=int(document[split]["n"]),
        scores=scores,
        baseline=baseline,
        warnings=_warnings(model, split, units),
    )


def _read_scores(model: RunModel) -> tuple[str, Mapping[str, Any]]:
    """Return the split and the content of its metrics file.

    Without one for these weights, the scores are those of the training on valid, with intervals if
    the predictions are beside them.
    """
    sha256 = hashlib.sha256((model.path / MODEL_FILE).read_bytes()).hexdigest()
    for split in ("test", "valid"):
        path = model.path / f"metrics-{split}.json"
        if path.is_file():
            document = read_object(path, "the metrics of a split")
            if document.get("model_sha256") == sha256:
                return split, document
    scores = read_metrics(model.path)["valid"]
    found: dict[str, Any] = {"valid": scores}
    if predictions_path(model.path, "valid").is_file():
        command = evaluate_command(model.path, "valid")
        saved = read_predictions(model.path, model.config, "valid", command)
        speakers = [entry.get("speaker_id") for entry in saved.entries]
        utterances = ScoredUtterances(saved.targets, saved.predictions, {"speaker_id": speakers}, {})
        found |= evidence([utterances], model.config.labels)
    return "valid", found


def _origin(model: RunModel) -> list[tuple[str, str]]:
    """Return what the model was trained on and with."""
    options = model.config.options
    found = [("data", Path(str(options["data"])).name)]
    check = model.path / CHECK_FILE
    counts = read_object(check, "the check of the data").get("splits", {}) if check.is_file() else {}
    if counts:
        found.append(("utterances", ", ".join(f"{count} in {split}" for split, count in counts.items())))
    for stream, one in model.encoders.items():
        layers = ", ".join(map(str, one.encoder.layers))
        found.append((f"{stream.replace('_', ' ')} encoder", f"{one.encoder.name}, layer {layers}"))
    found.append(("head", f"fusion {Path(str(options['fusion'])).name}, pooling {Path(str(options['pooling'])).name}"))
    return found


def _warnings(model: RunModel, split: str, units: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what weakens the scores, most important first."""
    found = [LIKE_TRAINING]
    if split == "valid":
        found.append(CHOSEN_ON_VALID)
    for unit in units:
        remark = weak_units(unit["unit"], unit["groups"], unit["effective_groups"], unit["independent"])
        found += [] if remark is None else [remark]
    for stream, one in model.encoders.items():
        if one.encoder.is_random:
            found.append(f"The {stream.replace('_', ' ')} encoder has random weights: a baseline.")
    for finding in read_findings(model.path, split):
        if finding["severity"] != "info":
            found.append(f"The data has a fault ({finding['id']}): {finding['message']}.")
    return found
