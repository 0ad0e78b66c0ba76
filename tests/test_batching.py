from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batching import Batches, padding_fraction, plan_batches


@given(st.lists(st.floats(0, 50), max_size=60), st.floats(1, 100), st.integers(1, 9))
def test_every_item_stands_in_exactly_one_batch_within_the_budget(
    lengths: list[float], budget: float, max_items: int
) -> None:
    batches = plan_batches(lengths, budget, max_items)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    longest = []
    for batch in batches:
        longest.append(max(lengths[i] for i in batch))
        assert len(batch) <= max_items
        assert len(batch) == 1 or longest[-1] * len(batch) <= budget
    assert longest == sorted(longest, reverse=True)


def test_like_lengths_stand_together() -> None:
    lengths = [1.0, 9.0, 1.1, 8.9, 1.2, 8.8]
    assert plan_batches(lengths, 27.0, 8) == [[1, 3, 5], [4, 2, 0]]
    assert (
        padding_fraction(lengths, plan_batches(lengths, 27.0, 8)) < 0.05 < padding_fraction(lengths, [[0, 1], [2, 3]])
    )


def test_a_budget_must_be_positive() -> None:
    with pytest.raises(ValueError, match="found 0"):
        plan_batches([1.0], 0, 1)


def test_batches_in_arrays_are_those_of_lists() -> None:
    lists = [[3, 1], [4], [0, 5, 2]]
    batches = Batches(np.array([3, 1, 4, 0, 5, 2]), np.array([2, 3, 6]))
    assert batches == lists and list(batches) == lists and len(batches) == 3 and batches.sizes.tolist() == [2, 1, 3]
    assert batches != lists[:2] and batches != [[3, 1], [4, 0], [5, 2]]
    assert batches[-1] == lists[-1] and batches[1:] == lists[1:] and batches[5:] == []
    for order in ([2, 0, 1], [0], []):
        assert batches.reordered(np.array(order, np.int64)) == [lists[i] for i in order]
    assert Batches(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []
    with pytest.raises(IndexError):
        batches[3]
