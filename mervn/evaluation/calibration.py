"""Temperature scaling and calibration scores of saved probabilities."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mervn.evaluation.metrics import calibration_error

Array = np.ndarray[Any, Any]
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0
SMALLEST_PROBABILITY = 1e-12
"""Probabilities are raised to this before their logarithm, as in the NLL of `mervn.evaluation.metrics`."""


@dataclass(frozen=True)
class CalibrationScores:
    """Calibration of the probabilities of N utterances; lower is better."""

    nll: float
    """Mean negative log-likelihood of the true class, in nats."""
    ece: float
    """Expected calibration error (Guo et al. 2017, eq. 3), 15 bins of equal width."""
    brier: float
    """Mean over utterances of sum_c (p_c - y_c)^2, 0 to 2 (Brier 1950)."""


@dataclass(frozen=True)
class Calibration:
    """Scores of probabilities before and after division of their logarithms by a temperature."""

    temperature: float
    at_bound: bool
    """Whether the temperature is a bound of the search, because valid does not determine it."""
    before: CalibrationScores
    after: CalibrationScores

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def calibrate(targets: Array, probabilities: Array, temperature: float) -> Calibration:
    """Score probabilities (N, C) against class indices (N,) int64, before and after a temperature.

    The temperature should come from `fit_temperature` on valid, also if test is scored.
    """
    return Calibration(
        temperature=temperature,
        at_bound=temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE),
        before=calibration_scores(targets, probabilities),
        after=calibration_scores(targets, apply_temperature(probabilities, temperature)),
    )


def calibration_scores(targets: Array, probabilities: Array) -> CalibrationScores:
    """Return NLL, ECE and Brier score of probabilities (N, C) for class indices (N,) int64."""
    _check(targets, probabilities)
    each = np.arange(len(targets))
    errors = np.array(probabilities, np.float64)
    errors[each, targets] -= 1
    true_class = probabilities[each, targets]
    return CalibrationScores(
        nll=float(-np.log(np.maximum(true_class, SMALLEST_PROBABILITY)).mean()),
        ece=calibration_error(targets, probabilities),
        brier=float((errors**2).sum(1).mean()),
    )


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Return softmax(log p / T), (N, C) float64: softer for T > 1, unchanged for T = 1."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, found {temperature}")
    return np.asarray(np.exp(log_softmax(_log(probabilities) / temperature, axis=1)))


def fit_temperature(targets: Array, probabilities: Array) -> float:
    """Return the temperature that minimises the NLL (Guo et al. 2017, section 4.2), from 0.1 to 10.

    The NLL is convex in 1 / T, so the minimum over log T is unique, and three cases need no search:
    if all classes are equally probable for each utterance, T has no effect and is 1. If the true
    class is always the most probable one, the NLL falls as T goes to 0; the result is the lower
    bound. If the NLL falls as T goes to infinity, it is the upper bound.

    targets: (N,) int64 class indices; probabilities: (N, C), of valid, not of test.
    """
    _check(targets, probabilities)
    logs = _log(probabilities)
    true_class = logs[np.arange(len(targets)), targets]  # (N,)
    if (logs == logs[:, :1]).all():
        return 1.0
    if (true_class == logs.max(1)).all():
        return MIN_TEMPERATURE
    if true_class.mean() <= logs.mean(1).mean():  # the slope of the NLL at 1 / T = 0
        return MAX_TEMPERATURE

    def nll(log_temperature: float) -> float:
        """Return the NLL at a temperature."""
        scaled = log_softmax(logs / math.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(targets)), targets].mean())

    bounds = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-8, "maxiter": 500})
    # the bounded search never evaluates the bounds themselves
    candidates = [
        (nll(found.x), math.exp(found.x)),
        (nll(bounds[0]), MIN_TEMPERATURE),
        (nll(bounds[1]), MAX_TEMPERATURE),
    ]
    return min(candidates)[1]


def _log(probabilities: Array) -> Array:
    """Return the logarithm of probabilities, finite for 0."""
    return np.asarray(np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST_PROBABILITY)))


def _check(targets: Array, probabilities: Array) -> None:
    """Raise ValueError for probabilities or targets that do not describe the same N > 0 utterances."""
    if probabilities.ndim != 2 or len(targets) != len(probabilities) or not len(targets):
        shapes = f"{targets.shape} and {probabilities.shape}"
        raise ValueError(f"targets (N,) and probabilities (N, C) must have one entry per utterance, found {shapes}")
    if targets.min() < 0 or targets.max() >= probabilities.shape[1]:
        raise ValueError(f"targets must be class indices below {probabilities.shape[1]}, found {targets.max()}")
    valid = (probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) <= 1e-3)  # False for NaN
    if not valid.all():
        first = int(valid.argmin())
        found = f"{probabilities[first]} (utterance {first})"
        raise ValueError(f"probabilities must be at least 0 and sum to 1, found {found}")
