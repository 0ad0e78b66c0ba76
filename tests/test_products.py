"""Products and their gradients are those of torch; their gradients lie in memory as their inputs do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mervn.model.products import dot_products, weighted_sums

Product = Callable[[Tensor, Tensor], Tensor]
CASES: dict[str, tuple[Product, Product, tuple[int, ...], tuple[int, ...]]] = {
    "dot_products": (dot_products, lambda a, b: a @ b.transpose(1, 2), (2, 3, 4), (2, 5, 4)),
    "weighted_sums": (weighted_sums, lambda weights, vectors: weights.transpose(1, 2) @ vectors, (2, 3, 5), (2, 3, 4)),
}


def inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    first, second = CASES[name][2:]
    return torch.randn(first, dtype=dtype, requires_grad=True), torch.randn(second, dtype=dtype, requires_grad=True)


def gradients(product: Product, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    output = product(*pair)
    return torch.autograd.grad(output, pair, torch.linspace(-1, 1, output.numel()).view(output.shape).to(output))


@pytest.mark.parametrize("name", CASES)
def test_a_product_and_its_gradients_are_those_of_torch(name: str) -> None:
    product, expected, *_ = CASES[name]
    pair = inputs(name)
    torch.testing.assert_close(product(*pair), expected(*pair))
    torch.testing.assert_close(gradients(product, pair), gradients(expected, pair))
    assert torch.autograd.gradcheck(product, pair)
    assert torch.autograd.gradgradcheck(product, pair)


@pytest.mark.parametrize("name", CASES)
def test_gradients_lie_in_memory_as_the_inputs_do(name: str) -> None:
    product, expected, *_ = CASES[name]
    assert all(gradient.is_contiguous() for gradient in gradients(product, inputs(name)))
    # negative control: those of torch do not
    assert not all(gradient.is_contiguous() for gradient in gradients(expected, inputs(name)))
