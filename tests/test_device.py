"""Reported numbers are computed in exact fp32; the process's own precision settings are restored."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from features.device import exact_fp32, precision_context
from features.ragged import Ragged
from mervn.data.split import Batch
from mervn.evaluation.predict import predict

BACKENDS: Any = torch.backends
SWITCHES = [BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn] + [
    getattr(BACKENDS.mkldnn, name) for name in ("matmul", "conv", "rnn")
]


def old() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def new() -> list[str]:
    return [switch.fp32_precision for switch in SWITCHES]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    precisions = new()
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    BACKENDS.fp32_precision = "none"
    for switch, precision in zip(SWITCHES, precisions, strict=True):
        switch.fp32_precision = precision


def legacy_high() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def legacy_medium() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False


def everything_tf32() -> None:
    BACKENDS.fp32_precision = "tf32"


def one_by_one() -> None:
    for switch in SWITCHES:
        switch.fp32_precision = "tf32"
    BACKENDS.cudnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize("allow", [legacy_high, legacy_medium, everything_tf32, one_by_one])
def test_fp32_is_exact_within_and_as_it_was_afterwards(allow: Callable[[], None]) -> None:
    allow()
    before = new()
    with exact_fp32():
        assert new() == ["ieee"] * len(SWITCHES)
        assert old() == ("highest", False)  # the old switches can be read: none contradicts a new one
        with exact_fp32():
            pass
        assert new() == ["ieee"] * len(SWITCHES)
    assert new() == before


def test_what_torch_allows_by_default_is_put_back_also_after_an_error() -> None:
    before = old(), new()
    with pytest.raises(KeyError), precision_context(torch.device("cpu"), "bf16"):
        assert torch.is_autocast_enabled("cpu")
        raise KeyError
    assert (old(), new()) == before
    with precision_context(torch.device("cpu"), "fp32"):
        assert not torch.is_autocast_enabled("cpu")


def test_threads_that_overlap_leave_the_settings_as_they_were() -> None:
    """The one that entered second and left last restored what the first one had set."""
    legacy_high()
    before = new()
    first, second = exact_fp32(), exact_fp32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert new() == ["ieee"] * len(SWITCHES)
    second.__exit__(None, None, None)
    assert new() == before


class Watched(nn.Module):
    """Tells in which precision it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []

    def forward(self, streams: dict[str, Ragged]) -> Tensor:
        self.seen.append(new())
        return torch.zeros(streams["audio"].batch_size, 2)


class OneBatch:
    """A split of two utterances without features."""

    name, utterances, costs = "valid", (None, None), [1.0, 1.0]

    def __len__(self) -> int:
        return 2

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        return [[0, 1]]

    def batches(self, plan: Any, device: torch.device) -> Iterator[Batch]:
        inputs = {"audio": Ragged.from_lengths(torch.zeros(2, 1), [1, 1])}
        yield Batch([0, 1], torch.zeros(2, dtype=torch.int64), lambda indices: inputs)


def test_probabilities_are_computed_in_exact_fp32_and_training_keeps_what_is_allowed() -> None:
    legacy_high()
    allowed, model = new(), Watched()
    probabilities = predict(model, OneBatch(), torch.device("cpu"))
    assert np.array_equal(probabilities, np.full((2, 2), 0.5))
    assert model.seen == [["ieee"] * len(SWITCHES)] and new() == allowed
