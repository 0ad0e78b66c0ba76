"""`evaluate`: score a finished run on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.progress import SILENT, Reporter
from mervn.config import EvaluateOptions
from mervn.data.corrupted import Corruption
from mervn.data.stored_sequences import make_resident
from mervn.evaluation.breakdown import breakdown_values, values_of
from mervn.evaluation.calibration import calibrate, fit_temperature
from mervn.evaluation.corruption import corruption_scores, describe_corruption
from mervn.evaluation.evidence import ScoredUtterances, evidence
from mervn.evaluation.leak_baselines import leak_predictions, leak_scores, open_train, traits_of
from mervn.evaluation.ledger import record_look
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.open_run import OpenedRun, open_run
from mervn.evaluation.overlap import Overlap, training_overlap
from mervn.evaluation.own_data import with_own_data
from mervn.evaluation.predict import predict, prediction_entries
from mervn.evaluation.saved_predictions import evaluate_command, predictions_path, read_predictions
from mervn.evaluation.shuffled_labels import shuffled_predictions, shuffled_scores
from mervn.run_folder import SCHEMA, read_config, write_json, write_jsonl

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Preparation:
    """Everything that is read before a split is scored, so that its faults end no look at test."""

    units: Mapping[str, list[Any]]
    """By key of --unit, the value of each utterance."""
    groups: Mapping[str, list[str]]
    """By key of --by and kind of band, the name of each utterance's value."""
    temperature: float | None
    """Fitted on the run's saved predictions for valid; None if it has none."""
    leaks: Mapping[str, Array | None]
    """Predictions (N,) int64 of each baseline of --leak-baselines; empty without this option."""
    shuffled: Sequence[Array]
    """Predictions (N,) int64 for each shuffle of the labels of train; empty if there are none."""
    overlap: Overlap | None
    """What the split shares with the training; None if that cannot be told."""


@dataclass(frozen=True)
class ScoredRun:
    """The scores of a run on a split."""

    metrics: dict[str, Any]
    """The content of metrics-<split>.json."""
    utterances: ScoredUtterances
    leaks: Mapping[str, ScoredUtterances | None]
    """Predictions of the baselines of --leak-baselines; None for one that cannot be trained."""
    shuffled: Sequence[ScoredUtterances]
    """Predictions for each shuffle of the labels of train; empty if there are none."""
    original: ScoredUtterances | None
    """Predictions with the original transcripts, if they are corrupted."""
    corruption: Corruption | None


def evaluate(run: Path, options: EvaluateOptions, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Score a run on a split and return the metrics.

    Writes metrics-<split>.json and predictions-<split>.jsonl. If the inputs are not those of the
    run, the file names also contain 8 hexadecimal digits of the inputs' hash. If a modality is
    withheld, they end with `-without-text` or `-without-audio`; if transcripts are corrupted, with
    `-corrupt-tones` or `-corrupt-asr`, and the original ones are scored for comparison. Each look at the test split is
    recorded in test_access.jsonl, in the run and beside the data, before it is scored. Raises
    UsageError if no utterance has a key of --unit or --by, or if the withheld modality is not one
    of two that the run reads. Raises InputError if the run is incomplete or the features it was
    trained on are missing.
    """
    options = with_own_data(read_config(run), options)
    opened = open_run(run, options, reporter)
    preparation = prepare(opened, options, reporter)
    # record the look before any score exists, so that none can go unrecorded
    looks = record_look(run, opened.data, opened.look, reporter) if options.split == "test" else None
    metrics = score_run(opened, preparation, options, reporter).metrics
    if looks is not None:
        metrics["test_looks"] = looks
    return metrics


def prepare(opened: OpenedRun, options: EvaluateOptions, reporter: Reporter) -> Preparation:
    """Read the values of --unit and --by, fit the temperature, and train --leak-baselines.

    UsageError if no utterance has one of the keys. InputError if the predictions for valid are
    damaged, or if the train split of the run has changed.
    """
    units = {key: values_of(opened.split, key, "--unit") for key in options.unit}
    temperature = None
    # those of the training are of other weights, if the weights have changed since
    is_valid_scored = opened.is_trained or (opened.run / "metrics-valid.json").is_file()
    if is_valid_scored and not _is_own_valid(opened) and predictions_path(opened.run, "valid").is_file():
        command = evaluate_command(opened.run, "valid")
        valid = read_predictions(opened.run, opened.config, "valid", command)
        temperature = fit_temperature(valid.targets, valid.probabilities)
    leaks: dict[str, Array | None] = {}
    shuffled: list[Array] = []
    if options.leak_baselines:
        train = open_train(opened.run, options, reporter)
        leaks = leak_predictions(traits_of(train), traits_of(opened.split))
        if opened.config.command != "finetune":  # it stores no features
            shuffled = shuffled_predictions(train, opened.original, len(opened.config.labels))
    overlap = training_overlap(opened, options, reporter)
    return Preparation(units, breakdown_values(opened.split, options.by), temperature, leaks, shuffled, overlap)


def _is_own_valid(opened: OpenedRun) -> bool:
    """Tell whether the split is the one whose predictions the temperature is fitted on."""
    return opened.split.name == "valid" and opened.is_own and opened.change is None


def score_run(opened: OpenedRun, preparation: Preparation, options: EvaluateOptions, reporter: Reporter) -> ScoredRun:
    """Score an opened run and write its metrics and predictions.

    The caller has recorded the look at test.
    """
    split, labels, name = opened.split, opened.config.labels, opened.results_name
    make_resident(opened.loaded.sequences, opened.device, options.memory_gb, reporter)
    model = opened.loaded.model.to(opened.device)
    probabilities = predict(model, split, opened.device, reporter=opened.loaded.reporter)
    scores = compute_metrics(split.targets, probabilities, labels)
    temperature = preparation.temperature
    if _is_own_valid(opened):
        temperature = fit_temperature(split.targets, probabilities)
    utterances = ScoredUtterances(split.targets, probabilities.argmax(1), preparation.units, preparation.groups)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "labels": list(labels),
        **_origin(opened),
        split.name: {"missing": len(split.missing), **scores.as_json()},
        **evidence([utterances], labels),
        "overlap": None if preparation.overlap is None else preparation.overlap.as_json(),
        "calibration": None if temperature is None else calibrate(split.targets, probabilities, temperature).as_json(),
    }
    leaks, shuffled = _answers(utterances, preparation)
    if leaks:
        of_shuffled = shuffled_scores(shuffled, len(labels)) if shuffled else None
        metrics["leak_baselines"] = leak_scores(leaks, labels) | {"shuffled_labels": of_shuffled}
    original = _score_original(opened, utterances)
    if opened.corruption is not None and original is not None:
        metrics["corrupt"] = describe_corruption([opened.corruption])
        metrics["corrupt"] |= corruption_scores([utterances], [original], len(labels))
    path = opened.run / f"metrics-{name}.json"
    if not opened.is_own:
        reporter.say(f"the inputs differ from those of the run's own {split.name} split: results are in {path}")
    entries = prediction_entries(split, probabilities, labels, preparation.units)
    write_jsonl(opened.run / f"predictions-{name}.jsonl", entries)
    write_json(path, metrics)
    return ScoredRun(metrics, utterances, leaks, shuffled, original, opened.corruption)


def _origin(opened: OpenedRun) -> dict[str, Any]:
    """Return what the metrics record about the inputs and the weights."""
    return {
        "dropped": opened.dropped,
        **({} if opened.without is None else {"without": opened.without}),
        **opened.sources,
        "inputs_sha256": opened.look.inputs_sha256,
        "content_sha256": dict(opened.original.content_sha256),
        "model_sha256": opened.model_sha256,
    }


def _score_original(opened: OpenedRun, utterances: ScoredUtterances) -> ScoredUtterances | None:
    """Return the predictions with the original transcripts; None without --corrupt."""
    if opened.corruption is None:
        return None
    model, reporter = opened.loaded.model, opened.loaded.reporter
    answers = predict(model, opened.original, opened.device, reporter=reporter).argmax(1)
    return replace(utterances, predictions=answers)


def _answers(
    utterances: ScoredUtterances, preparation: Preparation
) -> tuple[dict[str, ScoredUtterances | None], list[ScoredUtterances]]:
    """Return the predictions of --leak-baselines by name, and for each shuffle of the labels of train."""
    leaks: dict[str, ScoredUtterances | None] = {}
    for baseline, answers in preparation.leaks.items():
        leaks[baseline] = None if answers is None else replace(utterances, predictions=answers, groups={})
    return leaks, [replace(utterances, predictions=each, groups={}) for each in preparation.shuffled]
