from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.batching import padding_fraction, plan_batches


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
