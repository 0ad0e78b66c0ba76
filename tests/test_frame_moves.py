"""Moved frames, and their gradients, are those of torch's indexing."""

import torch
from torch import Tensor

from features.frame_moves import place_frames, take_frames

INDEX = torch.tensor([3, 0, 4])


def gradient(values: Tensor, moved: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((moved * torch.arange(1.0, moved.numel() + 1).view_as(moved)).sum(), values)
    return found


def test_taken_frames_are_those_of_indexing() -> None:
    values = torch.randn(6, 2, requires_grad=True)
    assert torch.equal(take_frames(values, INDEX), values[INDEX])
    assert torch.equal(gradient(values, take_frames(values, INDEX)), gradient(values, values[INDEX]))


def test_placed_frames_are_those_of_index_copy() -> None:
    values = torch.randn(3, 2, requires_grad=True)
    expected = torch.full((6, 2), -1.0).index_copy(0, INDEX, values)
    assert torch.equal(place_frames(values, INDEX, 6, -1.0), expected)
    assert torch.equal(gradient(values, place_frames(values, INDEX, 6, -1.0)), gradient(values, expected))


def test_a_gradient_has_a_gradient() -> None:
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: take_frames(x, INDEX).square(), values)
    assert torch.autograd.gradgradcheck(lambda x: place_frames(x, INDEX, 8, 0.0).square(), values[:3])


def test_control_a_frame_that_is_taken_twice_has_another_gradient() -> None:
    values, twice = torch.randn(6, 2, requires_grad=True), torch.tensor([1, 1])
    assert not torch.equal(gradient(values, take_frames(values, twice)), gradient(values, values[twice]))
