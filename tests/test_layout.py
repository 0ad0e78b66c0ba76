"""Layout: places of frames, computed once, for one batch or several, and usable in training whoever asked first."""

import copy
import pickle
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from features.layout import Layout, Layouts, padding_mask

NAMES = ("segments", "index", "steps", "reversed_steps")
BATCHES = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=4)


def together(sizes: list[tuple[int, ...]]) -> Layouts:
    """Return the layouts of several batches as training makes them: from columns that were copied to a device."""
    columns = torch.from_numpy(Layouts.columns_of(sizes))
    return Layouts(columns[0], sizes, columns[1:])


def test_places_are_those_of_a_loop() -> None:
    sizes = (3, 0, 2)
    layout = Layout(torch.tensor(sizes), sizes)
    assert layout.offsets.tolist() == [0, 3, 3]
    assert layout.segments.tolist() == [0, 0, 0, 2, 2]
    assert layout.index.tolist() == [0, 1, 2, 6, 7]
    assert layout.steps.tolist() == [0, 3, 6, 2, 5]
    assert layout.reversed_steps.tolist() == [6, 3, 0, 5, 2]
    assert layout.index is layout.index
    assert padding_mask(layout.lengths, 3).tolist() == [[True] * 3, [False] * 3, [True, True, False]]


@settings(deadline=None)
@given(BATCHES)
@example([[], [3, 0]])
def test_layouts_made_together_are_those_of_each_batch(batches: list[list[int]]) -> None:
    sizes = list(map(tuple, batches))
    for layout, own in zip(together(sizes).layouts(), sizes, strict=True):
        alone = Layout(torch.tensor(own, dtype=torch.int64), own)
        assert layout.sizes == own and torch.equal(layout.lengths, alone.lengths)
        for name in (*NAMES, "offsets"):
            assert torch.equal(getattr(layout, name), getattr(alone, name)), name


@settings(deadline=None)
@given(BATCHES, st.randoms(use_true_random=False))
def test_frames_are_found_in_a_tensor_in_another_order(batches: list[list[int]], random: Random) -> None:
    sizes = list(map(tuple, batches))
    sequences = [torch.arange(size) + 10 * i for i, size in enumerate(size for own in sizes for size in own)]
    order = list(range(len(sequences)))
    random.shuffle(order)
    flat = torch.cat([sequences[i] for i in order])
    starts = torch.zeros(len(order), dtype=torch.int64)
    first = 0
    for i in order:
        starts[i], first = first, first + len(sequences[i])
    assert torch.equal(flat[together(sizes).frames_in(starts)], torch.cat(sequences))


class Operations(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(layouts: list[Layout]) -> int:
    with Operations() as operations:
        for layout in layouts:
            for name in NAMES:
                getattr(layout, name)
    return operations.count


def test_more_batches_need_no_more_operations() -> None:
    sizes = [(3, 0, 2), (4, 1)] * 8
    few, many = operations(together(sizes[:2]).layouts()), operations(together(sizes).layouts())
    assert few == many
    # negative control: each batch on its own
    assert operations([Layout(torch.tensor(own), own) for own in sizes]) > 5 * many


def test_a_layout_is_pickled_and_copied_without_its_group() -> None:
    layout = together([(3, 0, 2), (4, 1)] + [(9, 9)] * 99).layouts()[1]
    operations([layout])  # computes its group
    alone, pickled = Layout(torch.tensor([4, 1]), (4, 1)), pickle.dumps(layout)
    assert len(pickled) == len(pickle.dumps(alone))
    for copied in (pickle.loads(pickled), copy.deepcopy(layout)):
        assert copied.sizes == (4, 1) and copied.group is None
        assert torch.equal(copied.lengths, layout.lengths) and torch.equal(copied.index, layout.index)


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_that_inference_needed_first_can_be_used_in_training(name: str) -> None:
    with torch.inference_mode():
        layout = Layout(torch.tensor([2, 1]), (2, 1))
        found: Tensor = getattr(layout, name)
    weights = torch.ones(4, requires_grad=True)
    (weights[found] * torch.ones(3, requires_grad=True)).sum().backward()  # saves the index
    assert weights.grad is not None and weights.grad.sum() == 3
