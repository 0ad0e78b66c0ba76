import numpy as np
import pytest

from mervn.training.sampling import (
    SAMPLINGS,
    BatchSize,
    epoch_batches,
    mixed_lengths,
    padding_efficiency,
    sampling_weights,
)

N = 1603
RNG = np.random.default_rng(0)
TARGETS = RNG.choice(3, N, p=[0.7, 0.2, 0.1])
LENGTHS = RNG.lognormal(1.2, 0.5, N) * (1 + TARGETS)
WEIGHTS = sampling_weights(TARGETS, LENGTHS, 0.5)
STREAM_LENGTHS = np.array(
    [np.maximum(1, LENGTHS * 50).astype(int), np.maximum(1, LENGTHS * RNG.uniform(2, 6, N)).astype(int)]
)
CUTTING = BatchSize(STREAM_LENGTHS, utterances=32)


def padded_share(batches: list[list[int]]) -> float:
    return sum(LENGTHS[b].sum() for b in batches) / sum(len(b) * LENGTHS[b].max() for b in batches)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batches_are_a_pure_function_of_seed_and_epoch(sampling: str) -> None:
    first = epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, 3)
    assert first == epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, 3)
    assert first != epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, 4)
    assert first != epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 1, 3)
    assert sum(len(batch) for batch in first) == N
    assert [len(batch) for batch in first].count(32) == N // 32


@pytest.mark.parametrize("sampling", ["random", "bucket"])
def test_without_weights_every_utterance_comes_exactly_once(sampling: str) -> None:
    for epoch in range(3):
        batches = epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(N))


@pytest.mark.parametrize("sampling", ["bucket", "both"])
def test_buckets_hold_like_lengths_and_new_company_every_epoch(sampling: str) -> None:
    batches = epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, 0)
    random = epoch_batches("random", LENGTHS, WEIGHTS, CUTTING, 0, 0)
    assert padded_share(batches) > 0.85 > 0.65 > padded_share(random)
    sets = [frozenset(batch) for batch in epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, 1)]
    assert not set(sets) & {frozenset(batch) for batch in batches}


@pytest.mark.parametrize("sampling", ["weighted", "both"])
def test_classes_are_drawn_by_their_weights(sampling: str) -> None:
    drawn = [i for e in range(60) for batch in epoch_batches(sampling, LENGTHS, WEIGHTS, CUTTING, 0, e) for i in batch]
    for c in range(3):
        p = WEIGHTS[c == TARGETS].sum() / WEIGHTS.sum()
        share = (TARGETS[drawn] == c).mean()
        assert abs(share - p) < 3 * np.sqrt(p * (1 - p) / len(drawn))


def test_weights_follow_the_formula() -> None:
    targets, lengths = np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 1.0, 3.0])
    # f = (3, 1) / 2, r = (1, 3) / 2
    expected = [1 / (1.5 * 0.5**0.5)] * 3 + [1 / (0.5 * 1.5**0.5)]
    np.testing.assert_allclose(sampling_weights(targets, lengths, 0.5), expected)
    np.testing.assert_allclose(sampling_weights(targets, lengths, 0.0) * [1.5, 1.5, 1.5, 0.5], np.ones(4))
    np.testing.assert_allclose(mixed_lengths(np.array([2.0]), np.array([10]), 0.03), [2.3])


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="'sorted'"):
        epoch_batches("sorted", LENGTHS, WEIGHTS, CUTTING, 0, 0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("budget", [3000, 20_000])
def test_a_frame_budget_is_kept_and_used(sampling: str, budget: int) -> None:
    cutting = BatchSize(STREAM_LENGTHS, frame_budget=budget)
    batches = epoch_batches(sampling, LENGTHS, WEIGHTS, cutting, 0, 0)
    costs = [int(STREAM_LENGTHS[:, batch].max(1).sum()) * len(batch) for batch in batches]
    assert all(cost <= budget or len(batch) == 1 for cost, batch in zip(costs, batches, strict=True))
    assert sum(map(len, batches)) == N and np.mean(costs) > 0.5 * budget
    if sampling in ("random", "bucket"):
        assert sorted(i for batch in batches for i in batch) == list(range(N))
    assert epoch_batches(sampling, LENGTHS, WEIGHTS, cutting, 0, 1) != batches


def plain_split(lengths: np.ndarray, order: list[int], budget: int) -> list[list[int]]:
    """Add utterances to the last batch, one by one, while it fits into the budget."""
    batches: list[list[int]] = []
    for i in order:
        if batches and lengths[:, [*batches[-1], i]].max(1).sum() * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def test_batches_are_those_of_a_plain_loop() -> None:
    order = RNG.permutation(N)[:300]
    for budget in (1, 3000, 20_000):
        assert BatchSize(STREAM_LENGTHS, frame_budget=budget).split(order) == plain_split(
            STREAM_LENGTHS, order.tolist(), budget
        )
    for size in (1, 7, 300, 301):
        found = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        assert BatchSize(STREAM_LENGTHS, utterances=size).split(order) == found


def test_an_utterance_longer_than_the_budget_is_a_batch() -> None:
    lengths = np.array([[5, 100, 3], [1, 1, 1]])
    assert BatchSize(lengths, frame_budget=12).split(np.arange(3)) == [[0], [1], [2]]
    assert BatchSize(lengths, frame_budget=12).split(np.array([0, 2, 1])) == [[0, 2], [1]]


def test_within_like_mixed_lengths_like_rows_come_together() -> None:
    lengths = np.array([LENGTHS * 50 * RNG.uniform(0.8, 1.2, N), LENGTHS]).astype(int)
    plain = epoch_batches("bucket", LENGTHS, WEIGHTS, BatchSize(lengths[1:], utterances=32), 0, 0)
    found = epoch_batches("bucket", LENGTHS, WEIGHTS, BatchSize(lengths, utterances=32), 0, 0)
    assert padding_efficiency(lengths[0], found) > padding_efficiency(lengths[0], plain) + 0.05


def test_padding_efficiency_is_real_over_padded_rows() -> None:
    assert padding_efficiency(np.array([4, 2, 1]), [[0, 1], [2]]) == pytest.approx(7 / 9)
    assert padding_efficiency(np.zeros(3, int), [[0, 1, 2]]) == 1.0
