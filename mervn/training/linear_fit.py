"""Fit of the linear baseline: logistic regression on the time-means of train, C chosen on valid."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from features.errors import InputError
from features.progress import SILENT, Reporter
from mervn.config import TrainingOptions
from mervn.data.split import BatchRequest, Split
from mervn.distributed import SINGLE_PROCESS, Processes
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.predict import predict
from mervn.model.head import Head
from mervn.model.linear import Centring
from mervn.training.checkpoint import BestEpoch
from mervn.training.history import History, HistoryEntry
from mervn.training.trainer import TrainingData

Array = np.ndarray[Any, np.dtype[np.float64]]
GRID = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse strength of the L2 penalty, from the strongest penalty on."""
MAX_ITERATIONS = 5000
TOLERANCE = 1e-6
"""Gradient at which the solver stops. At 1e-4, the default, the probabilities of two processors differed by 4e-5."""
ABSENT = -1e4
"""Logit of a class that has no utterance with features in train: its probability is 0."""


class LinearFit:
    """Fits the head of `--fusion linear` by logistic regression, once for each C of `GRID`.

    scikit-learn's LogisticRegression (L-BFGS, float64, tol 1e-6) on the time-means of each stream,
    standardised with the mean and standard deviation over the train utterances that have the
    stream; an empty stream is zeros after standardisation. The C with the best macro-F1 on valid is
    kept, of equal ones the one with the lower NLL, then the smaller one. There is no randomness.
    """

    def __init__(
        self,
        model: Head,
        data: TrainingData,
        options: TrainingOptions,
        device: torch.device,
        reporter: Reporter = SILENT,
    ) -> None:
        self.model = model
        self.train, self.valid, self.labels = data.train, data.valid, data.labels
        self.options, self.device, self.reporter = options, device, reporter
        self.processes: Processes = SINGLE_PROCESS
        self.best = BestEpoch(scores=(-1.0, -math.inf))  # macro-F1, then -NLL
        """Its epochs are the positions in `GRID`, from 1."""
        self.next_epoch = 1

    @property
    def strength(self) -> float:
        """The chosen C."""
        return GRID[self.best.epoch - 1]

    def fit(self, folder: Path) -> None:
        """Fit and score every C, write history.jsonl with a line for each, and load the best."""
        history, targets = History(folder), self.train.targets
        if len(np.unique(targets)) < 2:
            raise InputError(f"{self.train.name} must have features of at least two emotions")
        design, centres, scales = standardise(self.train, list(self.model.projections))
        for name, centre in centres.items():
            _load_centre(self.model.projections[name], centre)
        history.cut(0)
        for number, strength in enumerate(GRID, 1):
            started = time.perf_counter()
            coefficients, bias = self._solve(design, targets, strength)
            self._load(coefficients / scales, bias)
            valid = self._score(number)
            seconds = round(time.perf_counter() - started, 4)
            entry = HistoryEntry(number, valid, self.best.epoch, seconds, loader_seconds=0.0).as_json()
            history.append(entry | {"C": strength})
            self.next_epoch = number + 1
            self.reporter.say(f"C {strength:g}: valid macro-F1 {valid['macro_f1']:.4f}")
        self.model.load_state_dict(self.best.weights or {})

    def _solve(self, design: Array, targets: np.ndarray[Any, Any], strength: float) -> tuple[Array, Array]:
        """Return coefficients (C, D) and biases (C,) for standardised features (N, D)."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        class_weight = "balanced" if self.options.class_weights == "balanced" else None
        model = LogisticRegression(C=strength, class_weight=class_weight, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(design, targets)
        if model.n_iter_.max() >= MAX_ITERATIONS:
            self.reporter.say(f"warning: C {strength:g} has not converged in {MAX_ITERATIONS} iterations")
        found, biases = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # one set of coefficients: the difference of the two logits
            found, biases = np.concatenate([-found, found]) / 2, np.concatenate([-biases, biases]) / 2
        coefficients, all_biases = np.zeros((len(self.labels), design.shape[1])), np.full(len(self.labels), ABSENT)
        coefficients[model.classes_], all_biases[model.classes_] = found, biases
        return coefficients, all_biases

    def _load(self, weight: Array, bias: Array) -> None:
        """Load the weight (C, D) and bias (C,) of the linear layer, rounded to float32."""
        linear = self.model.classifier
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"the classifier must be a linear layer, found {type(linear).__name__}")
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))

    def _score(self, number: int) -> Mapping[str, float]:
        """Score the model on valid, keep the best weights, and return the scores."""
        probabilities = predict(self.model, self.valid, self.device, self.processes, self.reporter)
        metrics = compute_metrics(self.valid.targets, probabilities, self.labels)
        self.best.offer(number, (metrics.macro_f1, -metrics.nll), self.model.state_dict())
        return {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "nll": metrics.nll}


def _load_centre(centring: nn.Module, centre: Array) -> None:
    """Load the train mean of one stream."""
    if not isinstance(centring, Centring):
        raise TypeError(f"the projection must centre the stream, found {type(centring).__name__}")
    with torch.no_grad():
        centring.centre.copy_(torch.from_numpy(centre))


def standardise(split: Split, streams: Sequence[str]) -> tuple[Array, dict[str, Array], Array]:
    """Return standardised time-means (N, D), means by stream, and standard deviations (D,).

    D is the total width of the streams, in the given order. The means are rounded to float32, as
    the model stores them. A constant feature has standard deviation 1.
    """
    from sklearn.preprocessing import StandardScaler

    centres, scales, parts = {}, [], []
    by_stream = time_means(split)
    for name in streams:
        means = by_stream[name]
        present = np.array(split.lengths[name]) > 0
        scaler = StandardScaler().fit(means[present])
        centres[name] = scaler.mean_.astype(np.float32).astype(np.float64)
        scales.append(scaler.scale_)
        parts.append(np.where(present[:, None], (means - centres[name]) / scaler.scale_, 0.0))
    return np.concatenate(parts, axis=1), centres, np.concatenate(scales)


def time_means(split: Split) -> dict[str, Array]:
    """Return the mean over time (N, width) float64 of each stream; zeros for empty streams.

    Several layers are concatenated. InputError for features that are not finite.
    """
    cpu = torch.device("cpu")
    means: dict[str, Array] = {}
    for batch in split.batches(list(map(BatchRequest, split.evaluation_batches(cpu))), cpu):
        for name, stream in batch.inputs().items():
            frames = stream.values.flatten(1).double()
            if name not in means:
                means[name] = np.zeros((len(split), frames.shape[1]))
            # one utterance at a time: no sum depends on the other utterances
            for index, sequence in zip(batch.indices, frames.split(stream.sizes), strict=True):
                if len(sequence):
                    means[name][index] = sequence.mean(0).numpy()
    for name, values in means.items():
        for index in np.flatnonzero(~np.isfinite(values).all(1))[:1]:
            one = split.utterances[index]
            raise InputError(f"{one.file}:{one.line} {one.utterance_id!r}: its {name} features must be finite")
    return means
