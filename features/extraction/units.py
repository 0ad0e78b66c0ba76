"""Units of work: batches of utterances that one process claims, encodes and commits as one part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any, overload

import numpy as np

from features.batching import batch_bounds
from features.store.writer import PART_BYTES, PART_UTTERANCES

Array = np.ndarray[Any, Any]
MAX_BATCH = 256
"""Maximum number of utterances per batch."""
UNITS = 32
"""Minimum number of units, if there are as many batches: several processes then share the work
evenly."""


class IndexSet(Set[int]):
    """Set of the indices at which a mask (N,) is true, with one byte per index."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self._size = int(np.count_nonzero(mask))

    @classmethod
    def _from_iterable(cls, it: Any) -> Any:
        """Return the result of `&`, `|` and `-` with other sets."""
        return set(it)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int | np.integer):
            return False
        number = int(index)
        return 0 <= number < len(self.mask) and bool(self.mask[number])

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.mask).tolist())

    def __len__(self) -> int:
        return self._size

    def __or__(self, other: Set[Any]) -> Any:
        return IndexSet(self.mask | other.mask) if isinstance(other, IndexSet) else super().__or__(other)


def as_mask(indices: Set[int], count: int) -> Array:
    """Return the mask (count,) of a set of indices."""
    if isinstance(indices, IndexSet):
        return indices.mask
    mask = np.zeros(count, bool)
    mask[list(indices)] = True
    return mask


class Units(Sequence[list[list[int]]]):
    """Units, each a list of batches of indices; the lists are made when a unit is asked for.

    `order` (N,) holds the indices of all batches, one after the other. `batch_ends` (B,) are the
    ends of the batches in `order`, and `unit_ends` (U,) the ends of the units in `batch_ends`.
    """

    def __init__(self, order: Array, batch_ends: Array, unit_ends: Array, numbers: range | None = None) -> None:
        self.order, self.batch_ends, self.unit_ends = order, batch_ends, unit_ends
        self._numbers = range(len(unit_ends)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> list[list[int]]: ...

    @overload
    def __getitem__(self, index: slice) -> Units: ...

    def __getitem__(self, index: int | slice) -> list[list[int]] | Units:
        if isinstance(index, slice):
            return Units(self.order, self.batch_ends, self.unit_ends, self._numbers[index])
        number = self._numbers[index]
        first, last = _start(self.unit_ends, number), int(self.unit_ends[number])
        batches, start = [], _start(self.batch_ends, first)
        for end in self.batch_ends[first:last].tolist():
            batches.append(self.order[start:end].tolist())
            start = end
        return batches

    def owners(self, count: int) -> Array:
        """Return the unit of each index by its number, (count,) int32; -1 for an index of none."""
        found = np.full(count, -1, np.int32)
        for place, number in enumerate(self._numbers):
            first, last = _start(self.unit_ends, number), int(self.unit_ends[number])
            found[self.order[_start(self.batch_ends, first) : _start(self.batch_ends, last)]] = place
        return found

    def padding(self, lengths: Array, costs: Array) -> float:
        """Return the fraction of padding of all batches, as `padding_fraction`.

        `lengths` and `costs` (N,) are those of all utterances.
        """
        starts = np.concatenate([[0], self.batch_ends[:-1]]).astype(np.int64)[: len(self.batch_ends)]
        # the first item of a batch has the highest cost
        padded: float = sum((costs[self.order[starts]] * (self.batch_ends - starts)).tolist())
        real: float = sum(lengths[self.order].tolist())
        return 1 - real / padded if padded else 0.0


def _start(ends: Array, number: int) -> int:
    """Return the start of a piece: the end of the one before."""
    return int(ends[number - 1]) if number else 0


def plan_units(costs: Array, sizes: Array, rejected: Sequence[int] | Set[int], budget: float) -> Units:
    """Return the units of the utterances that are not rejected, in batches of at most `budget`.

    `costs` and `sizes` (N,) are the costs of the utterances and the bytes of their features.
    """
    is_kept = np.ones(len(costs), bool)
    is_kept[list(rejected)] = False
    kept = np.flatnonzero(is_kept).astype(np.int32)
    places, batch_ends = batch_bounds(costs[kept], budget, MAX_BATCH)
    order = kept[places]
    return Units(order, batch_ends, _cut_units(order, batch_ends, costs, sizes))


def _cut_units(order: Array, batch_ends: Array, costs: Array, sizes: Array) -> Array:
    """Group consecutive batches into units that fit into one part; return their ends.

    A unit ends with the batch that reaches 1 / UNITS of the total cost.
    """
    # sums of lists: those of NumPy round differently, and would change units of earlier extractions
    enough = sum(costs.tolist()) / UNITS
    ordered_costs, ends = costs[order].tolist(), batch_ends.tolist()
    total_sizes = np.cumsum(sizes[order]).tolist()
    unit_ends: list[int] = []
    start, first, cost = 0, 0, 0.0  # of the batch, of the unit, of the unit
    size_before = 0
    for number, end in enumerate(ends):
        fits = end - first <= PART_UTTERANCES and total_sizes[end - 1] - size_before <= PART_BYTES
        if number and (not fits or cost >= enough):
            unit_ends.append(number)
            first, cost, size_before = start, 0.0, total_sizes[start - 1]
        cost += sum(ordered_costs[start:end])
        start = end
    if ends:
        unit_ends.append(len(ends))
    return np.array(unit_ends, np.int64)
