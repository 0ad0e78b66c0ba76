import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss, mean_squared_error

from mervn.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Array,
    apply_temperature,
    calibrate,
    calibration_scores,
    fit_temperature,
)
from mervn.evaluation.metrics import calibration_error, compute_metrics

CLASSES = 4
NETCAL = Path(__file__).parent / "data" / "netcal.json"


def simulate(num: int, factor: float, seed: int = 0, classes: int = CLASSES) -> tuple[Array, Array]:
    """Return targets drawn from calibrated probabilities, and those with all logits times a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num, classes))
    thresholds = softmax(logits, axis=1).cumsum(1)
    targets = (rng.random((num, 1)) > thresholds[:, :-1]).sum(1)
    return targets, softmax(factor * logits, axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_scores_equal_those_of_scikit_learn(factor: float) -> None:
    targets, probabilities = simulate(300, factor)
    found = calibration_scores(targets, probabilities)
    assert found.nll == pytest.approx(log_loss(targets, probabilities, labels=range(CLASSES)))
    # a mean over N * C entries, times C
    assert found.brier == pytest.approx(CLASSES * mean_squared_error(np.eye(CLASSES)[targets], probabilities))
    assert found.ece == calibration_error(targets, probabilities)
    ours = compute_metrics(targets, probabilities, list("abcd"))
    assert (found.nll, found.ece) == pytest.approx((ours.nll, ours.ece))


def test_the_brier_score_goes_from_0_to_2() -> None:
    right, wrong = np.eye(2), np.eye(2)[::-1]
    assert calibration_scores(np.array([0, 1]), right).brier == 0
    assert calibration_scores(np.array([0, 1]), wrong).brier == 2


def test_a_temperature_is_a_power_of_the_probabilities() -> None:
    _, probabilities = simulate(50, 1.0)
    for temperature in (0.3, 1.0, 4.0):
        powers = probabilities ** (1 / temperature)
        found = apply_temperature(probabilities, temperature)
        np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), atol=1e-12)
        np.testing.assert_array_equal(found.argmax(1), probabilities.argmax(1))
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities, atol=1e-14)


@pytest.mark.parametrize("case", json.loads(NETCAL.read_text())["cases"], ids=lambda case: case["classes"])
def test_calibration_equals_that_of_netcal(case: dict[str, Any]) -> None:
    """ECE and temperature equal those of netcal, which tests/data/netcal.json holds.

    netcal scores two classes as one probability, another definition, so no case has two. This code
    wrote the file, with netcal 1.4.0 in an environment of its own (pip install netcal==1.4.0):

        import json
        import numpy as np
        from netcal import __version__
        from netcal.metrics import ECE, MCE
        from netcal.scaling import TemperatureScaling
        from scipy.special import softmax

        cases = []
        for seed, num, classes, factor in ((0, 400, 4, 2.5), (1, 300, 3, 0.5), (2, 500, 6, 1.0)):
            rng = np.random.default_rng(seed)
            logits = rng.normal(0, 1.5, (num, classes))
            targets = (rng.random((num, 1)) > softmax(logits, axis=1).cumsum(1)[:, :-1]).sum(1)
            p = softmax(factor * logits, axis=1)
            model = TemperatureScaling(method="mle").fit(p, targets)
            cases.append({
                "seed": seed, "n": num, "classes": classes, "factor": factor,
                "ece": float(ECE(15).measure(p, targets)),
                "temperature": 1 / float(model.temperature[0]),
                "ece_after": float(ECE(15).measure(model.transform(p), targets)),
            })
        json.dump({"netcal": __version__, "cases": cases}, open("netcal.json", "w"), indent=2)
    """
    targets, probabilities = simulate(case["n"], case["factor"], case["seed"], case["classes"])
    found = calibrate(targets, probabilities, fit_temperature(targets, probabilities))
    assert found.before.ece == pytest.approx(case["ece"], abs=1e-12)
    assert found.temperature == pytest.approx(case["temperature"], rel=1e-5)
    assert found.after.ece == pytest.approx(case["ece_after"], abs=1e-5)
    # negative control: the least certain tenth of the utterances
    chosen = probabilities.max(1) > np.quantile(probabilities.max(1), 0.1)
    assert abs(calibration_scores(targets[chosen], probabilities[chosen]).ece - case["ece"]) > 1e-3


@pytest.mark.parametrize(("factor", "num"), [(0.4, 60), (1.0, 60), (2.5, 60), (2.5, 7)])
def test_the_fitted_temperature_is_that_of_a_grid_search_and_of_another_optimizer(factor: float, num: int) -> None:
    targets, probabilities = simulate(num, factor, seed=1)
    found = fit_temperature(targets, probabilities)
    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 401)  # neighbours differ by 1.2 %

    def loss(temperature: float) -> float:
        powers = probabilities ** (1 / temperature)
        return float(np.log(powers.sum(1) / powers[np.arange(num), targets]).mean())

    powers = probabilities ** (1 / found)
    assert loss(found) == pytest.approx(log_loss(targets, powers / powers.sum(1, keepdims=True), labels=range(CLASSES)))
    best = grid[np.argmin([loss(temperature) for temperature in grid])]
    assert found == pytest.approx(best, rel=0.012)
    inverse = minimize_scalar(lambda x: loss(1 / x), bracket=(0.3, 1.0))  # over 1 / T, where the NLL is convex
    assert found == pytest.approx(1 / inverse.x, rel=1e-4)
    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01), loss(1.0))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_and_calibrates_other_utterances(factor: float) -> None:
    found = fit_temperature(*simulate(20_000, factor, seed=2))
    assert found == pytest.approx(factor, rel=0.05)
    targets, probabilities = simulate(20_000, factor, seed=3)
    calibration = calibrate(targets, probabilities, found)
    assert calibration.temperature == found and not calibration.at_bound
    assert calibration.after.ece < 0.02
    assert calibration.before == calibration_scores(targets, probabilities)
    if factor != 1:
        assert calibration.after.nll < calibration.before.nll - 0.01
        assert calibration.after.brier < calibration.before.brier - 0.01
        assert calibration.before.ece > 0.05  # negative control
        wrong = calibrate(targets, probabilities, 1 / found)
        assert wrong.after.nll > wrong.before.nll


def test_targets_without_relation_to_the_probabilities_flatten_them() -> None:
    targets, probabilities = simulate(2000, 2.0, seed=4)
    shuffled = np.random.default_rng(5).permutation(targets)
    assert fit_temperature(shuffled, probabilities) > 5
    opposite = probabilities.argmin(1)
    assert fit_temperature(opposite, probabilities) == MAX_TEMPERATURE
    assert calibrate(opposite, probabilities, MAX_TEMPERATURE).at_bound


def test_perfect_separation_gives_the_lower_bound_and_not_zero() -> None:
    targets, probabilities = simulate(40, 1.0)
    separated = probabilities.argmax(1)
    assert fit_temperature(separated, probabilities) == MIN_TEMPERATURE
    calibration = calibrate(separated, probabilities, MIN_TEMPERATURE)
    assert calibration.at_bound and calibration.after.nll < calibration.before.nll
    assert fit_temperature(targets, probabilities) > MIN_TEMPERATURE  # negative control


def test_one_class_in_valid_is_no_special_case() -> None:
    _, probabilities = simulate(100, 1.0, seed=6)
    constant = np.zeros(100, np.int64)
    assert MIN_TEMPERATURE < fit_temperature(constant, probabilities) <= MAX_TEMPERATURE
    assert fit_temperature(constant, np.tile([0.9, 0.05, 0.05], (100, 1))) == MIN_TEMPERATURE
    assert fit_temperature(constant, np.ones((100, 1))) == 1.0


def test_uniform_probabilities_have_no_temperature() -> None:
    uniform = np.full((6, 3), 1 / 3)
    assert fit_temperature(np.array([0, 1, 2, 0, 1, 2]), uniform) == 1.0
    np.testing.assert_allclose(apply_temperature(uniform, 5.0), uniform)


def test_probabilities_of_zero_stay_finite() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    targets = np.array([0, 1, 1, 1])  # the second utterance has probability 0 for its class
    found = fit_temperature(targets, probabilities)
    assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE and found > 1
    calibration = calibrate(targets, probabilities, found)
    assert math.isfinite(calibration.before.nll) and calibration.after.nll < calibration.before.nll
    assert calibration.before.nll == pytest.approx((-math.log(1e-12) - math.log(0.7)) / 4)
    assert list(calibration.as_json()) == ["temperature", "at_bound", "before", "after"]
    assert list(calibration.as_json()["after"]) == ["nll", "ece", "brier"]


def test_what_is_no_probability_or_target_is_refused() -> None:
    good = np.array([[0.5, 0.5], [0.2, 0.8]])
    for wrong in ([[0.5, 0.5], [0.2, 0.9]], [[0.5, 0.5], [-0.2, 1.2]], [[0.5, 0.5], [math.nan, 1.0]]):
        with pytest.raises(ValueError, match=r"sum to 1, found .* \(utterance 1\)"):
            fit_temperature(np.array([0, 1]), np.array(wrong))
    with pytest.raises(ValueError, match="class indices below 2, found 2"):
        calibration_scores(np.array([0, 2]), good)
    with pytest.raises(ValueError, match="one entry per utterance"):
        calibration_scores(np.array([0]), good)
    with pytest.raises(ValueError, match="one entry per utterance"):
        fit_temperature(np.zeros(0, np.int64), np.zeros((0, 2)))
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be a positive number"):
            apply_temperature(good, temperature)
