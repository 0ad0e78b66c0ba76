"""Poolings equal plain torch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from features.lazy_import import import_target
from features.ragged import Ragged
from mervn.model.pooling import AttentivePooling, ClsPooling
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


def test_cls_of_a_causal_model_takes_the_last_of_the_text_tokens() -> None:
    values = torch.arange(10.0)[:, None]
    sequence, text_lengths = Ragged.from_lengths(values, [4, 0, 5, 1]), torch.tensor([3, 0, 5, 2])
    pooling = ClsPooling(1)
    assert pooling(sequence, text_lengths).flatten().tolist() == [0, 0, 4, 9]
    pooling.last_token = True
    assert pooling(sequence, text_lengths).flatten().tolist() == [2, 0, 8, 9]
    assert pooling(sequence).flatten().tolist() == [3, 0, 8, 9]
