"""The baseline on shuffled labels is at chance, whatever the features; it is not if the labels are not shuffled."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

import mervn.evaluation.shuffled_labels as baseline
from mervn.evaluation.evidence import ScoredUtterances
from mervn.evaluation.shuffled_labels import (
    PENALTY,
    SHUFFLES,
    Array,
    shuffled_labels,
    shuffled_outputs,
    shuffled_predictions,
    shuffled_scores,
)


def clusters(count: int, seed: int, width: int = 5) -> tuple[Array, Array]:
    """Return features (N, D) in which classes of unequal size lie far apart, and the classes (N,)."""
    targets = np.array([0, 0, 0, 0, 1, 1, 2])[np.arange(count) % 7]
    return np.random.default_rng(seed).normal(0, 0.1, (count, width)) + 3 * np.eye(3, width)[targets], targets


def scores_of(monkeypatch: pytest.MonkeyPatch, width: int = 5) -> dict[str, Any]:
    """Return the scores on other utterances of the same clusters, through the time-means of two splits."""
    made = {"train": clusters(70, 0, width), "test": clusters(84, 1, width)}
    monkeypatch.setattr(
        baseline, "time_means", lambda split: {"text": made[split.name][0][:, 1:], "audio": made[split.name][0][:, :1]}
    )
    splits: dict[str, Any] = {name: SimpleNamespace(name=name, targets=made[name][1]) for name in made}
    predictions = shuffled_predictions(splits["train"], splits["test"], 3)
    units = {"speaker_id": [f"s{i // 14}" for i in range(84)]}
    return shuffled_scores([ScoredUtterances(made["test"][1], each, units, {}) for each in predictions], 3)


@pytest.mark.parametrize("width", [5, 90])
def test_the_outputs_are_those_of_scikit_learn(width: int) -> None:
    features, targets = clusters(40, 0, width)
    features -= features.mean(0)
    scored, _ = clusters(9, 1, width)
    found = shuffled_outputs(features, targets, scored, 3)
    assert len(found) == SHUFFLES
    for number in (0, 7):
        wanted = np.eye(3)[shuffled_labels(targets, 3, number)]
        expected = Ridge(alpha=PENALTY * len(features)).fit(features, wanted).predict(scored)
        np.testing.assert_allclose(found[number], expected, atol=1e-9)
    assert not np.allclose(found[0], found[7], atol=1e-3)


def test_labels_are_shuffled_with_their_names() -> None:
    targets = np.array([0] * 60 + [1] * 30 + [2] * 10)
    counts = [np.bincount(shuffled_labels(targets, 3, number), minlength=3).tolist() for number in range(40)]
    assert all(sorted(count) == [10, 30, 60] for count in counts)
    assert {count.index(60) for count in counts} == {0, 1, 2}
    assert np.array_equal(shuffled_labels(targets, 3, 5), shuffled_labels(targets, 3, 5))
    assert not np.array_equal(shuffled_labels(targets, 3, 5), shuffled_labels(targets, 3, 6))


def test_shuffled_labels_score_at_chance_and_true_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scores_of(monkeypatch)
    assert found["above_chance"] == []
    for metric in ("accuracy", "uar"):
        interval = found["intervals"][metric]
        assert interval["low"] < 1 / 3 < interval["high"] and interval["high"] - interval["low"] < 0.2
    monkeypatch.setattr(baseline, "shuffled_labels", lambda targets, num_classes, number: targets)
    leaked = scores_of(monkeypatch)
    assert leaked["above_chance"] == ["accuracy", "uar"] and leaked["accuracy"] == 1.0


def test_without_enough_speakers_nothing_is_claimed() -> None:
    targets = np.array([0, 1] * 6)
    units = {"speaker_id": ["a", "b", "c"] * 4}
    right = [ScoredUtterances(targets, targets, units, {})] * 3
    found = shuffled_scores(right, 2)
    assert found["accuracy"] == 1.0 and found["intervals"]["accuracy"] is None and found["above_chance"] == []
