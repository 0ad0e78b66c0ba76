"""Batches of utterances of similar length; pure functions, used by extraction and by training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

Array = np.ndarray[Any, Any]


class Batches(Sequence[list[int]]):
    """Batches in arrays, with 4 bytes per item; a list is made when a batch is asked for.

    Equal to a list of the same batches.
    """

    def __init__(self, order: Array, ends: Array) -> None:
        """`order` (N,): the indices of all batches, one after the other; `ends` (B,): the end of each."""
        self.order = order.astype(np.int32, copy=False)
        self.bounds = np.append(0, ends).astype(np.int64)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        first, end = self.bounds[numbers : numbers + 2].tolist()
        batch: list[int] = self.order[first:end].tolist()
        return batch

    @property
    def sizes(self) -> Array:
        """Number of items of each batch, (B,) int64."""
        return np.diff(self.bounds)

    def reordered(self, numbers: Array) -> Batches:
        """Return the batches of these numbers, (B,) int64, in their order."""
        sizes = self.sizes[numbers]
        ends = np.cumsum(sizes)
        shifts = np.repeat(self.bounds[numbers] - (ends - sizes), sizes)
        return Batches(self.order[shifts + np.arange(len(shifts))], ends)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | Batches) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


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
