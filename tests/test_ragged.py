import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from features.ragged import Ragged, concatenate, padding_mask, segment_mean, segment_sum

UNTIMED = settings(deadline=None)
"""A busy machine, or the first import of torch's comparison, exceeds hypothesis' deadline."""
SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def ragged(sizes: list[int], width: int = 3, seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged.from_sequences([torch.randn(size, width, generator=generator) for size in sizes])


@UNTIMED
@given(SIZES)
def test_padding_and_packing_are_inverse(sizes: list[int]) -> None:
    x = ragged(sizes)
    assert x.sizes == tuple(sizes)
    assert (x.max_length, x.total, x.batch_size) == (max(sizes), sum(sizes), len(sizes))
    padded = x.pad(float("nan"))
    assert padded.shape == (len(sizes), max(sizes), 3)
    assert torch.equal(x.pack(padded).values, x.values)
    for i, sequence in enumerate(x.split()):
        assert torch.equal(padded[i, : sizes[i]], sequence)
        assert padded[i, sizes[i] :].isnan().all()


@UNTIMED
@given(SIZES)
def test_a_time_major_view_is_the_padded_view_or_each_sequence_reversed(sizes: list[int]) -> None:
    x = ragged(sizes)
    steps = x.pad_time_major()
    assert torch.equal(steps, x.pad()) and steps.transpose(0, 1).is_contiguous()
    assert torch.equal(x.pack_time_major(x.pad(float("nan"))).values, x.values)
    mirrored = ragged(sizes).replace(torch.cat([sequence.flip(0) for sequence in x.split()]))
    assert torch.equal(x.pad_time_major(backward=True), mirrored.pad())
    assert torch.equal(x.pack_time_major(mirrored.pad(float("nan")), backward=True).values, x.values)


@UNTIMED
@given(SIZES)
def test_what_stands_in_the_padding_is_dropped(sizes: list[int]) -> None:
    x = ragged(sizes)
    again = Ragged.from_padded(x.pad(float("nan")), x.lengths)
    assert torch.equal(again.values, x.values)
    assert again.sizes == x.sizes


@UNTIMED
@given(SIZES)
def test_offsets_and_positions_locate_every_frame(sizes: list[int]) -> None:
    x = ragged(sizes)
    assert x.offsets.tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    expected: list[int] = []
    for size in sizes:
        expected += range(size)
    assert x.positions.tolist() == expected
    assert x.offsets.dtype == x.positions.dtype == torch.int64
    assert torch.equal(x.offsets[x.segments] + x.positions, torch.arange(x.total))
    assert torch.equal(x.segments * x.max_length + x.positions, x.index)


@UNTIMED
@given(SIZES)
def test_map_changes_the_values_and_keeps_the_layout(sizes: list[int]) -> None:
    x = ragged(sizes)
    norms = x.map(lambda values: values.norm(dim=1, keepdim=True))
    assert torch.equal(norms.values, x.values.norm(dim=1, keepdim=True))
    assert norms.sizes == x.sizes and norms.segments is x.segments and norms.index is x.index


def test_map_refuses_a_function_that_drops_frames() -> None:
    with pytest.raises(ValueError, match="3 frames, found 2"):
        ragged([3]).map(lambda values: values[1:])


@UNTIMED
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5))
def test_concatenate_joins_each_utterance(pairs: list[tuple[int, int]]) -> None:
    first, second = ragged([a for a, _ in pairs], seed=1), ragged([b for _, b in pairs], seed=2)
    joined = concatenate(first, second)
    for whole, a, b in zip(joined.split(), first.split(), second.split(), strict=True):
        assert torch.equal(whole, torch.cat([a, b]))


@UNTIMED
@given(SIZES)
def test_segment_mean_is_the_mean_of_each_sequence_and_zero_for_none(sizes: list[int]) -> None:
    x = ragged(sizes)
    for mean, sequence in zip(segment_mean(x), x.split(), strict=True):
        expected = sequence.mean(0) if len(sequence) else torch.zeros(3)
        torch.testing.assert_close(mean, expected)


def add_as_a_gpu(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Emulate `Tensor.index_add` with atomic additions: every partial sum is rounded to the dtype."""
    found = self.clone()
    for place, frame in zip(index.tolist(), source, strict=True):
        found[place] += frame
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frames", [500, 1500])
def test_sums_of_many_frames_are_exact_to_the_last_rounding(
    frames: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "index_add", add_as_a_gpu)
    values = 40 + torch.rand(frames + 3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = Ragged.from_lengths(values, [frames, 3])
    exact = torch.stack([sequence.double().mean(0) for sequence in x.split()])
    assert segment_mean(x).dtype == dtype and segment_sum(x).dtype == dtype
    torch.testing.assert_close(segment_mean(x).double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
    if dtype == torch.bfloat16:
        torch.testing.assert_close(segment_sum(x)[0].double(), frames * exact[0], rtol=0.004, atol=0)
    control = add_as_a_gpu(torch.zeros(2, 2, dtype=dtype), 0, x.segments, values)[0].double() / frames
    assert ((control - exact[0]) / exact[0]).abs().max() > 5 * torch.finfo(dtype).eps


def test_mask_is_true_on_real_frames() -> None:
    assert padding_mask(torch.tensor([2, 0]), 3).tolist() == [[True, True, False], [False] * 3]
    assert ragged([2, 0]).mask.tolist() == [[True, True], [False, False]]


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to the 4 frames"):
        Ragged.from_lengths(torch.zeros(4, 2), [1, 2])
    with pytest.raises(ValueError, match=r"0\.\.2"):
        Ragged.from_padded(torch.zeros(1, 2, 2), torch.tensor([3]))
    with pytest.raises(ValueError, match="3 frames, found 2"):
        ragged([3]).replace(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="found 1 and 2"):
        concatenate(ragged([1]), ragged([1, 1]))


def test_is_a_pytree_of_its_tensors() -> None:
    x = ragged([2, 1])
    doubled = pytree.tree_map(lambda tensor: tensor * 2 if tensor.is_floating_point() else tensor, x)
    assert isinstance(doubled, Ragged)
    assert torch.equal(doubled.values, x.values * 2)
    assert doubled.sizes == x.sizes


def test_gradients_flow_through_padding_packing_and_joining() -> None:
    values = torch.randn(3, 2, requires_grad=True)
    x = Ragged.from_lengths(values, [1, 2])
    concatenate(x.pack(x.pad()), x).values.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.full((3, 2), 2.0))
