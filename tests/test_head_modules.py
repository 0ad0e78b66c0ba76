"""Fusion, pooling and loss are resolved once: neither a head nor a loss looks at a file of code again."""

from pathlib import Path

import pytest
import torch

from features.errors import UsageError
from mervn.config import HeadOptions, TrainHeadOptions
from mervn.data.streams import StreamShape
from mervn.model.custom_module import read_modules
from mervn.model.head import build_head
from mervn.model.head_modules import head_modules
from mervn.model.losses import build_loss
from mervn.registry import FUSIONS, LOSSES, POOLINGS
from mervn.training.setup import resolve

CPU = torch.device("cpu")
SHAPES = {"text": StreamShape(3), "audio": StreamShape(3)}
CODE = """
from torch import nn


class Fusion(nn.Module):
    outputs = ("text", "audio")

    def __init__(self, dim, heads, dropout):
        super().__init__()


class Pooling(nn.Module):
    def __init__(self, dim):
        super().__init__()


class Loss(nn.Module):
    def __init__(self, weights):
        super().__init__()
"""


def test_code_edited_after_it_was_resolved_is_not_read_again(tmp_path: Path) -> None:
    """Regression test: fusion, pooling and loss were looked up again, each time from their file."""
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    names = {role: f"{path}:{role.capitalize()}" for role in ("fusion", "pooling", "loss")}
    options = TrainHeadOptions(dim=4, mlp=(4,), **names)
    resolved = resolve(options, CPU)
    path.write_text("raise SystemError('edited')\n# " + "another hash")
    head = build_head(resolved.options, SHAPES, 2, resolved.modules)
    loss = build_loss(resolved.loss, resolved.options, None, torch.tensor([1, 1]))
    assert [type(module).__name__ for module in (head.fusion, *head.poolings, loss)] == [
        "Fusion", "Pooling", "Pooling", "Loss",
    ]  # fmt: skip
    assert resolved.custom_modules["loss"].source == CODE.encode()
    with pytest.raises(UsageError, match="mine.py:1: SystemError: edited"):  # negative control
        build_head(resolved.options, SHAPES, 2)


def test_each_output_of_a_fusion_has_a_pooling() -> None:
    assert head_modules(HeadOptions(fusion="late", pooling="max")).poolings == (POOLINGS["max"],) * 2
    found = head_modules(HeadOptions(fusion="late", pooling="cls"))
    assert found.fusion == FUSIONS["late"] and found.poolings == (POOLINGS["cls"], POOLINGS["mean"])
    assert set(head_modules(HeadOptions(fusion="linear", pooling="cls")).poolings) == {POOLINGS["mean"]}
    with pytest.raises(UsageError, match="which --fusion audio does not have; choose one of mean, max, min, attn"):
        head_modules(HeadOptions(fusion="audio", pooling="cls"))


def test_built_in_modules_need_no_file() -> None:
    options = TrainHeadOptions(fusion="text", loss="ce")
    resolved = resolve(options, CPU)
    assert read_modules(options) == dict(resolved.custom_modules) == {}
    assert (resolved.fusion, resolved.loss) == (FUSIONS["text"], LOSSES["ce"])
