"""Scores of guessing and of the most frequent label, against scikit-learn and full enumeration."""

import itertools
from collections import Counter

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, f1_score, recall_score

from mervn.evaluation.baselines import baselines, chance_scores, majority_scores

COUNTS = np.array([3, 1, 2])


def targets(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("counts", [[3, 1, 2], [4, 0, 2], [5, 1]])
def test_chance_is_the_mean_over_all_possible_guesses(counts: list[int]) -> None:
    labels, classes = targets(np.array(counts)).tolist(), range(len(counts))
    # guesses with the same pairs of a label and a guess have the same scores
    pairs = Counter(tuple(sorted(zip(labels, guess))) for guess in itertools.product(classes, repeat=len(labels)))
    scores = []
    for true, guess in (zip(*each) for each in pairs):
        macro = f1_score(true, guess, labels=np.unique(true), average="macro", zero_division=0)
        weighted = f1_score(true, guess, labels=classes, average="weighted", zero_division=0)
        uar = recall_score(true, guess, labels=np.unique(true), average="macro", zero_division=0)
        scores.append((accuracy_score(true, guess), macro, uar, weighted))
    found = chance_scores(np.array(counts))
    assert tuple(found.values()) == pytest.approx(tuple(np.average(scores, axis=0, weights=list(pairs.values()))))
    assert list(found) == ["accuracy", "macro_f1", "uar", "weighted_f1"]


def test_chance_is_not_the_usual_approximation_which_is_wrong_for_few_utterances() -> None:
    fraction, guess = COUNTS / COUNTS.sum(), 1 / 3
    approximate = float((2 * fraction * guess / (fraction + guess)).mean())
    assert abs(chance_scores(COUNTS)["macro_f1"] - approximate) > 0.01
    assert chance_scores(COUNTS * 3000)["macro_f1"] == pytest.approx(approximate, abs=1e-3)


def test_majority_is_the_constant_answer_of_scikit_learn() -> None:
    true = targets(COUNTS)
    constant = DummyClassifier(strategy="most_frequent").fit(true[:, None], true).predict(true[:, None])
    found = majority_scores(COUNTS, ["angry", "happy", "sad"])
    assert found["label"] == "angry"
    assert found["accuracy"] == pytest.approx(accuracy_score(true, constant))
    assert found["macro_f1"] == pytest.approx(f1_score(true, constant, average="macro", zero_division=0))
    assert found["weighted_f1"] == pytest.approx(f1_score(true, constant, average="weighted", zero_division=0))
    assert found["uar"] == pytest.approx(recall_score(true, constant, average="macro", zero_division=0))


def test_of_equally_frequent_labels_the_first_is_the_majority() -> None:
    assert baselines(np.array([1, 2, 2]), ["a", "b", "c"])["majority"]["label"] == "b"
