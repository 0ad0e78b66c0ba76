"""Batches of utterances of similar length; pure functions, used by extraction and by training."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[float], budget: float, max_items: int) -> list[list[int]]:
    """Group items of similar length, longest first, so that a padded batch costs at most `budget`.

    The cost of a batch is its maximum length times its number of items, in the unit of `lengths`
    (seconds of audio, tokens). An item longer than the budget is a batch of its own. The plan
    depends on the arguments alone: equal lengths keep their order. Every index is in exactly one
    batch. Raises ValueError if `budget` is not positive or `max_items` is less than 1.
    """
    if budget <= 0 or max_items < 1:
        raise ValueError(f"budget must be positive and max_items at least 1, found {budget} and {max_items}")
    batches: list[list[int]] = []
    longest = 0.0
    # longest first: the first item of a batch is its longest, and sets the padded length
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and len(batches[-1]) < max_items and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = lengths[index]
    return batches


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
