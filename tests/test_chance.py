"""The test of shortcuts: its score and bound are those of a reference, and it seldom alarms by chance."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from sklearn.naive_bayes import CategoricalNB

from features.audit import chance
from features.audit.chance import association, can_test, many_symbols, one_symbol, quantile_bins

Array = np.ndarray[Any, Any]


def test_score_and_bound_are_those_of_scikit_learn_and_a_loop_over_groups() -> None:
    rng = np.random.default_rng(0)
    targets, groups = rng.integers(0, 3, 400), rng.integers(0, 16, 400)
    groups[:16] = np.arange(16)
    values = np.where(rng.random(400) < 0.5, targets, rng.integers(0, 4, 400))
    folds = groups % 4
    found = association(one_symbol(values.tolist()), targets, groups, folds)
    predictions = np.zeros(400, np.int64)
    for fold in range(4):
        train, test = folds != fold, folds == fold
        # the same smoothing: 2 * SMOOTHING in the denominator, which an additive constant of the class does not change
        model = CategoricalNB(alpha=chance.SMOOTHING, fit_prior=False, min_categories=4)
        model.fit(values[train, None], targets[train])
        ours = model.feature_log_prob_[0].T[values[test]]  # (n, C)
        sizes = np.bincount(targets[train])
        ours += np.log((sizes + 4 * chance.SMOOTHING) / (sizes + 2 * chance.SMOOTHING))
        predictions[test] = ours.argmax(axis=1)
    left = []
    for group in range(16):
        kept = groups != group
        left.append(balanced_accuracy_score(targets[kept], predictions[kept]))
    error = np.sqrt(2 * 15 / 16 * ((np.array(left) - np.mean(left)) ** 2).sum())
    uar = balanced_accuracy_score(targets, predictions)
    assert found is not None and found.groups == 16 and found.chance == pytest.approx(1 / 3)
    assert found.uar == pytest.approx(uar) and uar > 0.5
    assert found.low == pytest.approx(uar - stats.t.ppf(chance.LEVEL, 15) * error)
    assert found.beats_chance(0.1) and not found.beats_chance(0.9)


def noise(rng: np.random.Generator, spread: float) -> tuple[Array, Array, Array]:
    """Return labels, groups and values of which both depend on the speaker, and not on each other."""
    groups = np.repeat(np.arange(12), 20)
    tendency = rng.normal(0, spread, (12, 2))
    targets = (rng.random(240) < 1 / (1 + np.exp(-tendency[groups, 0]))).astype(np.int64)
    return targets, groups, rng.normal(0, 1, 240) + tendency[groups, 1]


def test_speakers_with_favourite_labels_and_paces_raise_no_alarm() -> None:
    rng = np.random.default_rng(1)
    alarms, naive = 0, 0
    for _ in range(100):
        targets, groups, values = noise(rng, 2.0)
        symbols = one_symbol(quantile_bins(values))
        by_group = association(symbols, targets, groups)
        alarms += by_group is not None and by_group.beats_chance()
        # negative control: utterances as if they were independent
        alone = association(symbols, targets, np.arange(240))
        naive += alone is not None and alone.beats_chance()
    assert alarms <= 1 and naive >= 5


def codes_of_speakers(num_labels: int, num_groups: int, trials: int = 40) -> float:
    """Return the fraction of alarms if in each group every label has a symbol of its own, dealt at random."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(trials):
        groups = np.repeat(np.arange(num_groups), 6 * num_labels)
        targets = np.tile(np.arange(num_labels), 6 * num_groups)
        code = rng.permuted(np.tile(np.arange(num_labels), (num_groups, 1)), axis=1)  # (G, C)
        found = association(one_symbol(code[groups, targets].tolist()), targets, groups)
        alarms += found is not None and found.beats_chance(0.1)
    return alarms / trials


def test_speakers_with_a_code_of_their_own_seldom_raise_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes_of_speakers(3, 4) <= 0.05 and codes_of_speakers(2, 8) <= 0.05  # the smallest that are tested
    monkeypatch.setattr(chance, "MAX_AGREEMENT", 1.0)
    assert codes_of_speakers(2, 4) > 0.05  # negative control: four speakers agree by chance


def test_a_constant_and_symbols_that_never_repeat_tell_nothing() -> None:
    targets, groups = np.arange(60) % 3, np.arange(60) // 5
    constant = association(one_symbol(["x"] * 60), targets, groups)
    assert constant is not None and constant.uar < 0.34 and not constant.beats_chance()
    assert association(one_symbol(list(range(60))), targets, groups) is None


def test_symbols_of_one_group_do_not_help_in_the_others() -> None:
    targets = np.repeat([0, 1], 40)
    groups = np.arange(80) // 8  # each group has one label
    found = association(one_symbol(groups.tolist()), targets, groups)
    assert found is not None and not found.beats_chance()


def test_too_few_groups_or_labels_are_not_tested() -> None:
    targets = np.tile([0, 1], 30)
    symbols = one_symbol(targets.tolist())
    assert association(symbols, targets, np.arange(60) // 20) is None  # three groups
    assert association(symbols, np.zeros(60, np.int64), np.arange(60)) is None
    assert association(symbols, np.full(60, -1), np.arange(60)) is None
    assert association(symbols, targets, np.arange(60), np.zeros(60, np.int64)) is None  # one fold
    rare = targets.copy()
    rare[:3] = 2  # of two groups only: left out
    found = association(symbols, rare, np.arange(60) // 2)
    assert found is not None and found.chance == 0.5 and found.uar == 1.0 and found.low == 1.0


def test_groups_that_could_all_agree_by_chance_are_not_tested() -> None:
    """C! assignments of symbols, and each group with k labels agrees with one with probability (C - k)! / C!."""

    def agreement(num_labels: int, labels_of_groups: list[int]) -> float:
        ways = [math.perm(num_labels, count) for count in labels_of_groups]
        return math.factorial(num_labels) / math.prod(ways)

    def mixed(num_labels: int, num_groups: int) -> tuple[Array, Array]:
        return np.tile(np.arange(num_labels), num_groups), np.repeat(np.arange(num_groups), num_labels)

    for num_labels in (2, 3, 4):
        for num_groups in range(chance.MIN_GROUPS, 12):
            by_chance = agreement(num_labels, [num_labels] * num_groups)
            targets, groups = mixed(num_labels, num_groups)
            assert can_test(targets, groups) is (by_chance <= 0.01), (num_labels, num_groups)
            assert (association(one_symbol(targets.tolist()), targets, groups) is None) is (by_chance > 0.01)
    # each speaker has one label
    assert can_test(np.arange(8) % 2, np.arange(8)) and agreement(2, [1] * 8) == pytest.approx(0.0078, abs=1e-4)
    assert not can_test(np.arange(8) % 2, np.arange(8), num_tests=2)
    assert not can_test(np.zeros(99, np.int64), np.arange(99))


def test_any_number_of_symbols_is_read_as_a_set() -> None:
    found = many_symbols([["a", "b", "a"], [], ["b"]])
    assert list(zip(found.utterances.tolist(), found.symbols.tolist(), strict=True)) == [(0, 0), (0, 1), (2, 1)]


def test_predictions_from_many_symbols_are_those_of_dense_matrices() -> None:
    rng = np.random.default_rng(3)
    present = rng.random((300, 40)) < 0.1
    present[:, 39] = False
    present[7, 39] = True  # occurs in one fold only
    targets, folds = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
    expected = np.zeros(300, np.int64)
    for fold in range(5):
        scores = np.zeros((300, 4))
        for label in range(4):
            train = present[(folds != fold) & (targets == label)]
            rates = np.log((train.sum(0) + chance.SMOOTHING) / (len(train) + 2 * chance.SMOOTHING))
            scores[:, label] = (present * np.where(present[folds != fold].any(0), rates, 0.0)).sum(1)
        expected[folds == fold] = scores.argmax(1)[folds == fold]
    found = chance._predict(chance.Symbols(*np.nonzero(present)), targets, folds, 4)
    np.testing.assert_array_equal(found, expected)
    shuffled = chance._predict(chance.Symbols(*np.nonzero(present)), rng.permutation(targets), folds, 4)
    assert (shuffled != expected).any()  # negative control


def test_equal_numbers_share_a_bin() -> None:
    found = quantile_bins(np.array([1.0] * 50 + [2.0] * 50 + [9.0]))
    assert len(set(found[:50])) == len(set(found[50:100])) == 1
    assert len(set(quantile_bins(np.arange(800.0)))) == chance.MAX_BINS
