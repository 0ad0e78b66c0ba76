"""Layout: places of frames, computed once and usable in training whoever asked first."""

import torch

from features.layout import Layout, padding_mask


def test_places_are_those_of_a_loop() -> None:
    sizes = (3, 0, 2)
    layout = Layout(torch.tensor(sizes), sizes)
    assert layout.offsets.tolist() == [0, 3, 3]
    assert layout.segments.tolist() == [0, 0, 0, 2, 2]
    assert layout.index.tolist() == [0, 1, 2, 6, 7]
    assert layout.index is layout.index
    assert padding_mask(layout.lengths, 3).tolist() == [[True] * 3, [False] * 3, [True, True, False]]


def test_a_layout_that_inference_needed_first_can_be_used_in_training() -> None:
    layout = Layout(torch.tensor([2, 1]), (2, 1))
    with torch.inference_mode():
        assert layout.index.tolist() == [0, 1, 2]
    weights = torch.ones(3, requires_grad=True)
    (weights[layout.index] * weights).sum().backward()  # saves the index
    assert weights.grad is not None and weights.grad.tolist() == [2.0] * 3


def test_known_places_are_not_computed_again() -> None:
    segments, index = torch.tensor([7]), torch.tensor([8])
    layout = Layout.known(torch.tensor([1]), (1,), segments, index)
    assert layout.segments is segments and layout.index is index
