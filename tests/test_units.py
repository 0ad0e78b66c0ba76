"""Units: equal to those of a plain implementation with lists, on random corpora."""

from itertools import chain

import numpy as np
import pytest

from features.batching import padding_fraction
from features.extraction import units
from features.extraction.units import MAX_BATCH, UNITS, IndexSet, as_mask, plan_units
from features.store.writer import PART_UTTERANCES


def plain_batches(costs: list[float], budget: float) -> list[list[int]]:
    """Group items of similar cost, longest first, one by one."""
    batches: list[list[int]] = []
    longest = 0.0
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        if batches and len(batches[-1]) < MAX_BATCH and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = costs[index]
    return batches


def plain_units(costs: list[float], sizes: list[int], rejected: set[int], budget: float) -> list[list[list[int]]]:
    """Return the units of utterances, batch by batch."""
    kept = [i for i in range(len(costs)) if i not in rejected]
    enough, found = sum(costs) / UNITS, []
    count, size, cost = 0, 0, 0.0
    for batch in plain_batches([costs[i] for i in kept], budget):
        indices = [kept[i] for i in batch]
        more = sum(sizes[i] for i in indices)
        fits = count + len(indices) <= PART_UTTERANCES and size + more <= units.PART_BYTES
        if not found or not fits or cost >= enough:
            found.append([])
            count, size, cost = 0, 0, 0.0
        found[-1].append(indices)
        count, size, cost = count + len(indices), size + more, cost + sum(costs[i] for i in indices)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_units_are_those_of_a_plain_plan(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "PART_BYTES", 3000)
    generator = np.random.default_rng(seed)
    count = int(generator.integers(0, 900))
    costs = generator.choice([generator.integers(0, 60, count) / 4, generator.lognormal(1, 0.7, count)])
    sizes = generator.integers(0, 900, count)
    rejected = set(generator.choice(count, count // 9, replace=False).tolist()) if count else set()
    costs[list(rejected)] = 0.0
    budget = float(generator.choice([0.4, 8.0, 30.1, 500.0]))
    found = plan_units(costs, sizes, rejected, budget)
    expected = plain_units(costs.tolist(), sizes.tolist(), rejected, budget)
    assert list(found) == expected
    assert [unit for i in range(1, 4) for unit in found[i - 1 :: 3]] == [
        unit for i in range(1, 4) for unit in expected[i - 1 :: 3]
    ]
    owners = np.full(count, -1)
    for number, unit in enumerate(expected[1::3]):
        owners[list(chain.from_iterable(unit))] = number
    assert found[1::3].owners(count).tolist() == owners.tolist()
    batches, lengths = list(chain.from_iterable(expected)), 0.9 * costs
    assert found.padding(lengths, costs) == padding_fraction(lengths.tolist(), batches, costs.tolist())


def test_a_set_of_indices_is_a_set() -> None:
    one, two = IndexSet(np.array([True, False, True, False])), IndexSet(np.array([False, False, True, True]))
    assert one == {0, 2} and list(one | two) == [0, 2, 3] and isinstance(one | two, IndexSet)
    assert one & {2, 3} == {3, 2} & one == {2} and {0, 1} - one == {1} and one | {7} == {0, 2, 7}
    assert 2 in one and np.int64(2) in one and 3 not in one and -1 not in one and 9 not in one and "2" not in one
    assert as_mask(one, 4).tolist() == [True, False, True, False] == as_mask({0, 2}, 4).tolist()
    assert len(one) == 2 and not IndexSet(np.zeros(3, bool))
