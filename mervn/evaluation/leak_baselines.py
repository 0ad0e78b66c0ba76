"""Baselines that read what should not tell an emotion: duration, missing or repeated text, speaker.

A shortcut (Geirhos et al. 2020, "Shortcut Learning in Deep Neural Networks") of the data shows here
as a score above chance, because none of these baselines hears or reads how something is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError
from features.extraction.encoder_input import transcript_of
from features.progress import Reporter
from mervn.config import EvaluateOptions
from mervn.data.split import Split
from mervn.evaluation.breakdown import seconds_of
from mervn.evaluation.evidence import ScoredUtterances, evidence
from mervn.evaluation.intervals import METRICS, TIE, score
from mervn.evaluation.open_run import open_run
from mervn.evaluation.own_data import has_same_manifests
from mervn.run_folder import read_config

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Traits:
    """Traits of N utterances, which are all that the baselines read."""

    seconds: Array
    """(N,) float64: durations; 0 if unknown."""
    transcripts: Sequence[str]
    """Normalized; empty if missing."""
    speakers: Sequence[str | None]
    targets: Array
    """(N,) int64: indices into the labels."""


def traits_of(split: Split) -> Traits:
    """Return what the baselines read of a split."""
    speakers = [utterance.speaker_id for utterance in split.utterances]
    return Traits(np.array(seconds_of(split)), list(map(transcript_of, split.utterances)), speakers, split.targets)


def open_train(run: Path, options: EvaluateOptions, reporter: Reporter) -> Split:
    """Open the train split of a run, also if `options` name other data.

    A run of `finetune` decodes its audio, for the durations. Raises InputError if the split is not
    the one that the run was trained on.
    """
    changes: dict[str, Any] = {"split": "train", "data": None, "without": None, "corrupt": None, "verify_inputs": False}
    if options.data is not None:
        config = read_config(run)
        is_there = has_same_manifests(config, Path(config.options["data"]))
        if not is_there and has_same_manifests(config, options.data):
            del changes["data"]  # a copy, the only one that is left
        else:
            changes |= {"features_dir": None, "audio_root": None}
    train = open_run(run, options.model_copy(update={**changes, "allow_missing": True}), reporter)
    if not train.is_own:
        raise InputError(
            f"--leak-baselines need the train split that {run} was trained on, but its manifests or features "
            "have changed since; train the run again"
        )
    return train.split


def leak_predictions(train: Traits, scored: Traits) -> dict[str, Array | None]:
    """Return the predictions (N,) int64 of each baseline; None for durations that are not all known.

    `duration` is a logistic regression on the standardised log seconds, `empty_transcript` one on
    whether the transcript is empty. `seen_transcript` and `speaker` answer the most frequent label
    that exactly this transcript, or this speaker, has in train, of equal ones the first. If train
    does not have it, they answer the most frequent label of train.
    """
    duration = None
    if train.seconds.all() and scored.seconds.all():
        duration = _regress(np.log(train.seconds), train.targets, np.log(scored.seconds))
    empty = _regress(_is_empty(train.transcripts), train.targets, _is_empty(scored.transcripts))
    return {
        "duration": duration,
        "empty_transcript": empty,
        "seen_transcript": _look_up(train.transcripts, train.targets, scored.transcripts),
        "speaker": _look_up(train.speakers, train.targets, scored.speakers),
    }


def _is_empty(transcripts: Sequence[str]) -> Array:
    """Return 1 for each empty transcript, else 0, (N,) float64."""
    return np.array([not text for text in transcripts], np.float64)


def _regress(feature: Array, targets: Array, scored: Array) -> Array:
    """Fit a logistic regression on one feature (N,) of train and return its predictions (M,) int64."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(targets)) < 2:
        return np.full(len(scored), targets[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(feature[:, None], targets)
    predictions: Array = model.predict(scored[:, None]).astype(np.int64)
    return predictions


def _look_up(keys: Sequence[str | None], targets: Array, scored: Sequence[str | None]) -> Array:
    """Return for each key the most frequent target of this key in train, (M,) int64.

    An unknown key, None or empty, and a key that train does not have get the most frequent target
    of all: an empty transcript is no text that was seen.
    """
    size = int(targets.max()) + 1
    counts: dict[str, Array] = {}
    for key, target in zip(keys, targets.tolist(), strict=True):
        if key:
            counts.setdefault(key, np.zeros(size, np.int64))[target] += 1
    everywhere = np.bincount(targets)
    return np.array([int(counts.get(key or "", everywhere).argmax()) for key in scored], np.int64)


def leak_scores(
    baselines: Mapping[str, ScoredUtterances | None], labels: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """Return scores, intervals and `above_chance` of each baseline; None if it has no predictions.

    `above_chance` lists the metrics whose interval lies above what no guess reaches that ignores
    the utterance: for the accuracy that of the most frequent label, for macro-F1 1 / C, which is
    the maximum of mean 2 p q / (p + q) over the frequencies q of guesses, at q = p.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for name, one in baselines.items():
        if one is None:
            found[name] = None
            continue
        of_one = evidence([one], labels)
        intervals = of_one["intervals"]
        limits = {"macro_f1": 1 / len(labels), "accuracy": of_one["baselines"]["majority"]["accuracy"]}
        above = []
        for metric, limit in limits.items():
            if intervals[metric] is not None and intervals[metric]["low"] > limit + TIE:
                above.append(metric)
        found[name] = {**_scores(one, len(labels)), "intervals": intervals, "above_chance": above}
    return found


def _scores(one: ScoredUtterances, num_classes: int) -> dict[str, float]:
    """Return each metric of some predictions."""
    cells = np.bincount(one.targets * num_classes + one.predictions, minlength=num_classes**2)
    confusion = cells.reshape(num_classes, num_classes)
    return {metric: float(score(confusion, metric)) for metric in METRICS}
