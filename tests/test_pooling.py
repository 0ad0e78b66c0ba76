"""Poolings equal plain torch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from features.lazy_import import import_target
from features.ragged import Ragged
from mervn.model.pooling import AttentivePooling
from mervn.registry import POOLINGS


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_equal_plain_torch_on_one_sequence(pooling: str) -> None:
    torch.manual_seed(0)
    module = import_target(POOLINGS[pooling])(4)
    sequence = torch.randn(5, 4)

    def attended(x: Tensor) -> Tensor:
        assert isinstance(module, AttentivePooling)
        return functional.softmax(module.score(torch.tanh(module.hidden(x))), dim=0).mul(x).sum(0)

    expected = {
        "cls": lambda x: x[0],
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.amax(0),
        "min": lambda x: x.amin(0),
        "attn": attended,
    }[pooling](sequence)
    found = module(Ragged.from_sequences([torch.randn(2, 4), sequence, torch.empty(0, 4)]))
    torch.testing.assert_close(found[1], expected)
    assert not found[2].any()
