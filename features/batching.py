"""Which utterances share a batch: pure functions of lengths and a budget, used by extraction and by training."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[float], budget: float, max_items: int) -> list[list[int]]:
    """Group items of similar length, longest first, so that a padded batch costs at most `budget`.

    The cost of a batch is its greatest length times its number of items, in the unit of `lengths` (seconds of audio,
    tokens). An item longer than the budget is a batch of its own. The plan depends on nothing but the arguments: equal
    lengths keep their order, and every index stands in exactly one batch.
    """
    if budget <= 0 or max_items < 1:
        raise ValueError(f"budget must be positive and max_items at least 1, found {budget} and {max_items}")
    batches: list[list[int]] = []
    longest = 0.0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and len(batches[-1]) < max_items and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


def padding_share(
    lengths: Sequence[float], batches: Sequence[Sequence[int]], costs: Sequence[float] | None = None
) -> float:
    """Return which fraction of the padded frames of these batches is padding, 0..1.

    `costs` are the lengths that each item is padded to before it is batched, if it is.
    """
    alone = lengths if costs is None else costs
    padded = sum(max(alone[i] for i in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded if padded else 0.0
