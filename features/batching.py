"""Batches of utterances of similar length; pure functions, used by extraction and by training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def plan_batches(lengths: Sequence[float], budget: float, max_items: int) -> list[list[int]]:
    """Group items of similar length, longest first, so that a padded batch costs at most `budget`.

    The cost of a batch is its maximum length times its number of items, in the unit of `lengths`
    (seconds of audio, tokens). An item longer than the budget is a batch of its own. The plan
    depends on the arguments alone: equal lengths keep their order. Every index is in exactly one
    batch. Raises ValueError if `budget` is not positive or `max_items` is less than 1.
    """
    order, ends = batch_bounds(np.asarray(lengths, np.float64), budget, max_items)
    indices, batches, start = order.tolist(), [], 0
    for end in ends.tolist():
        batches.append(indices[start:end])
        start = end
    return batches


def batch_bounds(lengths: Array, budget: float, max_items: int) -> tuple[Array, Array]:
    """Return the batches of `plan_batches` as arrays: the indices of all (N,), and the ends of each."""
    if budget <= 0 or max_items < 1:
        raise ValueError(f"budget must be positive and max_items at least 1, found {budget} and {max_items}")
    # longest first: the first item of a batch is its longest, and sets the padded length
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order].data  # its elements are Python's floats
    ends, end = [], 0
    while end < len(order):
        end = min(len(order), end + _batch_size(longest[end], budget, max_items))
        ends.append(end)
    return order, np.array(ends, np.int64)


def _batch_size(longest: float, budget: float, max_items: int) -> int:
    """Return how many items of at most this length fit into the budget, 1..max_items."""
    if longest * max_items <= budget:
        return max_items
    size = max(1, int(budget / longest))
    # the quotient is rounded
    while size > 1 and longest * size > budget:
        size -= 1
    while longest * (size + 1) <= budget:
        size += 1
    return size


def padding_fraction(
    lengths: Sequence[float], batches: Sequence[Sequence[int]], costs: Sequence[float] | None = None
) -> float:
    """Return the fraction of padding among the padded frames of these batches, 0..1.

    `costs` are the lengths that single items are padded to before they are batched (default:
    `lengths`). The result is 0 if there are no frames.
    """
    costs = lengths if costs is None else costs
    real: list[float] = []
    padded: list[float] = []
    for batch in batches:
        real += [lengths[i] for i in batch]
        padded.append(max(costs[i] for i in batch) * len(batch))
    return 1 - sum(real) / sum(padded) if sum(padded) else 0.0
