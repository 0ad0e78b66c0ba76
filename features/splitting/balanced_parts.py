"""Balanced parts: assigns groups to parts so that every part has every class in its proportion.

Used by `mervn split`, and by `mervn import` for folds that are not official.

Greedy assignment from many orders of the groups, then moves and swaps. It only uses integers and
single floating-point operations, so the result is the same on every machine. The orders come from
`random.Random`, whose numbers Python keeps stable. scikit-learn's StratifiedGroupKFold makes one
attempt, and often leaves a class out of a fold.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import InputError

Array = np.ndarray[Any, Any]
TRIES, IMPROVED = 24, 12
"""Number of greedy assignments, and how many of the best are improved."""
MAX_STEPS = 500
"""Maximum number of moves and swaps that improve one assignment."""
MAX_SWAP_GROUPS = 300
"""Maximum number of groups for which swaps are tried; with more, moves are fine enough."""
SCALE = 1000.0
MISSING = 10**13
"""Cost of a class that a part lacks, above the cost of any imbalance."""
TIME_LIMIT_S = 60.0


@dataclass(frozen=True)
class Balance:
    """Cost of parts: Pearson's chi-square of their counts, and a penalty per missing class."""

    counts: Array
    """(G, F) int64: by group the number of utterances of each class, then of each other value."""
    num_classes: int
    fractions: Sequence[float]
    """Wanted fraction of the utterances in each of the K parts."""

    @property
    def target(self) -> Array:
        """Wanted counts (K, F) float64."""
        target: Array = np.array(self.fractions)[:, None] * self.counts.sum(axis=0)
        return target

    def cost(self, found: Array, target: Array) -> Array:
        """Return the costs (...) int64 of parts with the counts `found` (..., F)."""
        difference = found - target
        # whole numbers: a sum of floats depends on its order
        cells = np.rint(difference * difference / target * SCALE).astype(np.int64)
        missing = (found[..., : self.num_classes] == 0).sum(axis=-1)
        costs: Array = cells.sum(axis=-1) + MISSING * missing
        return costs

    def totals(self, parts: Array) -> Array:
        """Return the counts (K, F) int64 of the parts that an assignment (G,) makes."""
        found = np.zeros((len(self.fractions), self.counts.shape[1]), np.int64)
        np.add.at(found, parts, self.counts)
        return found

    def total_cost(self, parts: Array) -> int:
        """Return the cost of an assignment (G,)."""
        return int(self.cost(self.totals(parts), self.target).sum())


def assign(counts: Array, num_classes: int, fractions: Sequence[float]) -> Array | None:
    """Assign each group to a part; return the numbers of the parts (G,) int64.

    `counts` (G, F) int64 holds, by group, the number of utterances of each class, then of further
    values to balance. Returns None if no assignment has every class in every part. Raises
    InputError if this could not be decided.
    """
    if ((counts[:, :num_classes] > 0).sum(axis=0) < len(fractions)).any():
        return None
    balance = Balance(counts, num_classes, fractions)
    best = _search(balance)
    if balance.total_cost(best) >= MISSING:
        cover = find_cover(counts[:, :num_classes] > 0, len(fractions))
        return None if cover is None else _improve(balance, cover)
    return best


def assign_most(counts: Array, num_classes: int, fractions: Sequence[float]) -> Array:
    """Do the same as `assign`, but return the best assignment found if none has every class in every part."""
    chosen = assign(counts, num_classes, fractions)
    return _search(Balance(counts, num_classes, fractions)) if chosen is None else chosen


def count_values(groups: Array, values: Sequence[str | None]) -> Array:
    """Return the number (G, V) int64 of each value, in sorted order, in each group; None is not counted.

    `groups` (N,) int64 holds the number of the group of each utterance.
    """
    known = sorted({value for value in values if value is not None})
    column = {value: number for number, value in enumerate(known)}
    counts = np.zeros((int(groups.max()) + 1, len(known)), np.int64)
    for group, value in zip(groups, values, strict=True):
        if value is not None:
            counts[group, column[value]] += 1
    return counts


def _search(balance: Balance) -> Array:
    """Return the assignment (G,) with the lowest cost of those that were found."""
    starts = _greedy(balance)
    costs = [balance.total_cost(parts) for parts in starts]
    order = sorted(range(len(starts)), key=costs.__getitem__)
    found = [_improve(balance, starts[i]) for i in order[:IMPROVED]]
    return min(found, key=balance.total_cost)


def _greedy(balance: Balance) -> list[Array]:
    """Return assignments (G,): groups in turn, each to the part whose cost it lowers most.

    The first takes large groups first; each of the others follows a random order that prefers
    large groups. All are made side by side.
    """
    counts, target = balance.counts, balance.target
    sizes = counts[:, : balance.num_classes].sum(axis=1)
    generator = random.Random(0)
    factors = [1.0] * len(sizes) + [0.5 + generator.random() for _ in range((TRIES - 1) * len(sizes))]
    orders = np.argsort(-sizes * np.array(factors).reshape(TRIES, -1), axis=1, kind="stable")  # (TRIES, G)
    tries = np.arange(TRIES)
    totals = np.zeros((TRIES, *target.shape), np.int64)
    costs = balance.cost(totals, target)  # (TRIES, K)
    parts = np.zeros((TRIES, len(sizes)), np.int64)
    for groups in orders.T:
        after = totals + counts[groups][:, None]
        new = balance.cost(after, target)
        chosen = (new - costs).argmin(axis=1)
        parts[tries, groups] = chosen
        totals[tries, chosen] = after[tries, chosen]
        costs[tries, chosen] = new[tries, chosen]
    return list(parts)


def _improve(balance: Balance, parts: Array) -> Array:
    """Move one group, or swap two, as long as the cost falls; return the assignment (G,)."""
    parts = parts.copy()
    for _ in range(MAX_STEPS):
        changed = _best_change(balance, parts)
        if changed is None:
            break
        parts = changed
    return parts


def _best_change(balance: Balance, parts: Array) -> Array | None:
    """Return the assignment after the best move or swap; None if none lowers the cost."""
    counts, target, totals = balance.counts, balance.target, balance.totals(parts)
    groups = np.arange(len(parts))
    costs = balance.cost(totals, target)  # (K,)
    without = totals[parts] - counts  # (G, F): the part of each group without it
    loss = balance.cost(without, target[parts]) - costs[parts]  # (G,)
    gain = balance.cost(totals + counts[:, None], target) - costs  # (G, K)
    moves = loss[:, None] + gain
    moves[groups, parts] = 0
    group, part = np.unravel_index(moves.argmin(), moves.shape)
    best, changed = int(moves[group, part]), parts.copy()
    changed[group] = part
    if len(parts) <= MAX_SWAP_GROUPS:
        # (G, G): cost of the part of the first group after the second has replaced it
        replaced = balance.cost(without[:, None] + counts, target[parts][:, None]) - costs[parts][:, None]
        swaps = np.where(parts[:, None] == parts, 0, replaced + replaced.T)
        first, second = np.unravel_index(swaps.argmin(), swaps.shape)
        if int(swaps[first, second]) < best:
            best, changed = int(swaps[first, second]), parts.copy()
            changed[first], changed[second] = parts[second], parts[first]
    return changed if best < 0 else None


def find_cover(has_class: Array, num_parts: int) -> Array | None:
    """Return an assignment (G,) int64 with every class in every part; None if there is none.

    `has_class` (G, C) bool tells which classes a group has. Solved exactly, as an integer program
    over the different sets of classes. Raises InputError if it takes more than a minute.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, identity, kron

    sets, members, sizes = np.unique(has_class, axis=0, return_inverse=True, return_counts=True)
    members = members.reshape(-1)
    each = identity(num_parts)
    # y[s * K + k]: number of groups with set s in part k
    whole = LinearConstraint(kron(identity(len(sets)), np.ones((1, num_parts))).tocsr(), sizes, sizes)
    covered = LinearConstraint(kron(coo_array(sets.T.astype(float)), each).tocsr(), 1, np.inf)
    count = len(sets) * num_parts
    found = milp(
        np.zeros(count), integrality=np.ones(count), bounds=Bounds(0, np.inf), constraints=[whole, covered],
        options={"time_limit": TIME_LIMIT_S},
    )  # fmt: skip
    if found.status == 2:  # proven: infeasible
        return None
    if found.x is None:
        raise InputError(f"no split with every class in every part was found in {TIME_LIMIT_S:g} s: {found.message}")
    numbers = np.rint(found.x).astype(np.int64).reshape(-1, num_parts)
    parts = np.zeros(len(has_class), np.int64)
    for number, in_parts in enumerate(numbers):
        parts[members == number] = np.repeat(np.arange(num_parts), in_parts)
    return parts
