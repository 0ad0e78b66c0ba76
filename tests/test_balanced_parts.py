"""Balanced parts: every class in every part or a refusal, against exhaustive search."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from features.splitting import balanced_parts
from features.splitting.balanced_parts import assign, find_cover

Array = np.ndarray[Any, Any]


def corpus(seed: int, num_groups: int, num_classes: int) -> Array:
    """Return counts (G, C): skewed classes, many of which a speaker lacks."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, 8, size=num_classes) + 0.3
    counts = rng.poisson(rates, size=(num_groups, num_classes)) * (rng.random((num_groups, num_classes)) < 0.8)
    counts[:, 0] += 1
    return counts[:, counts.sum(axis=0) > 0].astype(np.int64)


def with_total(counts: Array) -> Array:
    return np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)


def parts_of(counts: Array, fractions: list[float]) -> Array | None:
    return assign(with_total(counts), counts.shape[1], fractions)


def totals(counts: Array, parts: Array, num_parts: int) -> Array:
    return np.stack([counts[parts == part].sum(axis=0) for part in range(num_parts)])


def best_by_search(counts: Array, num_parts: int) -> bool:
    """Tell by exhaustive search whether an assignment has every class in every part."""
    for parts in product(range(num_parts), repeat=len(counts)):
        if totals(counts, np.array(parts), num_parts).all():
            return True
    return False


def test_300_random_corpora_have_every_class_in_every_fold_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balanced_parts, "TRIES", 6)  # for the sake of time: fewer tries are worse, not better
    monkeypatch.setattr(balanced_parts, "IMPROVED", 1)
    refused = 0
    for seed in range(300):
        rng = np.random.default_rng((1, seed))
        num_folds = int(rng.integers(3, 7))
        counts = corpus(seed, int(rng.integers(5, 31)), int(rng.integers(2, 8)))
        parts = parts_of(counts, [1 / num_folds] * num_folds)
        if parts is None:
            refused += 1
            too_rare = ((counts > 0).sum(axis=0) < num_folds).any()
            assert too_rare or find_cover(counts > 0, num_folds) is None
        else:
            assert totals(counts, parts, num_folds).all()
    assert 50 < refused < 250  # both happen


def test_what_is_refused_is_impossible_and_what_is_possible_is_found() -> None:
    found = []
    for seed in range(25):
        counts = corpus(seed, 6, 4) * (np.random.default_rng((2, seed)).random((6, 1)) < 0.9)
        counts = counts[counts.sum(axis=1) > 0]
        counts = counts[:, counts.sum(axis=0) > 0]
        possible = best_by_search(counts, 3)
        assert (parts_of(counts, [0.6, 0.2, 0.2]) is not None) == possible
        found.append(possible)
    assert set(found) == {True, False}


def test_classes_that_are_in_enough_groups_but_cannot_be_divided_are_refused() -> None:
    # of three groups and two parts, one part has one group only, which lacks a class
    triangle = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    assert parts_of(triangle, [0.5, 0.5]) is None
    parts = parts_of(np.concatenate([triangle, triangle]), [0.5, 0.5])
    assert parts is not None and totals(np.concatenate([triangle, triangle]), parts, 2).all()


def test_a_solution_that_the_greedy_search_misses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = corpus(4, 8, 5)
    wanted = parts_of(counts, [1 / 3] * 3)
    assert wanted is not None
    monkeypatch.setattr(balanced_parts, "_greedy", lambda balance: [np.zeros(8, np.int64)])
    monkeypatch.setattr(balanced_parts, "MAX_STEPS", 0)
    parts = parts_of(counts, [1 / 3] * 3)
    assert parts is not None and totals(counts, parts, 3).all()


@pytest.mark.parametrize(("num_groups", "tolerance"), [(24, 0.1), (120, 0.03)])
def test_classes_and_sizes_keep_their_proportion(num_groups: int, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson([20, 12, 6, 3], size=(num_groups, 4)).astype(np.int64)
    fractions = [0.7, 0.15, 0.15]
    parts = parts_of(counts, fractions)
    assert parts is not None
    wanted = np.array(fractions)[:, None] * counts.sum(axis=0)
    assert (np.abs(totals(counts, parts, 3) / wanted - 1) < tolerance).all()
    drawn = totals(counts, rng.choice(3, num_groups, p=fractions), 3)  # a random split does not
    assert (np.abs(drawn / wanted - 1) >= tolerance).any()


def test_thousands_of_groups_are_divided_exactly() -> None:
    counts = np.eye(3, dtype=np.int64)[np.arange(600) % 3]
    parts = parts_of(counts, [0.8, 0.1, 0.1])
    assert parts is not None and np.bincount(parts).tolist() == [480, 60, 60]


def test_the_cost_of_large_counts_is_exact() -> None:
    counts = np.array([[10**6], [10**6], [10**6 - 1]])
    balance = balanced_parts.Balance(counts, 1, [1 / 3] * 3)
    assert 0 < balance.total_cost(np.array([0, 1, 1])) - balanced_parts.MISSING < balanced_parts.MISSING
