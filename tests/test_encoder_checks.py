"""Exactness checks of encoders: built-in ones pass, and each check finds the fault that it is for."""

from pathlib import Path

import pytest
import torch
from every_encoder import load

from cli.main import run
from features.encoders.encoder_checks import ENCODER_CHECKS, RUNS, batch_differences, make_inputs
from features.encoders.selector import parse_selector
from features.ragged import Ragged, padding_mask
from mervn.model.check_module import check_module

SOURCE = """
import torch
from torch import nn
from features.ragged import Ragged


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 4)

    def get_feat_lengths(self, length):
        return (length + 319) // 320

    def frames(self, inputs):
        split = [nn.functional.pad(x, (0, -len(x) % 320)).view(-1, 320) for x in inputs.split()]
        return Ragged.from_sequences(split).map(lambda x: x.square().mean(1, keepdim=True))

    def forward(self, inputs):
        return self.frames(inputs).map(lambda x: self.linear(torch.log(x + 1e-6)))


class Mine(Base):
    """
FAULTS = {
    RUNS: "def forward(self, inputs):\n        return super().forward(inputs).values",
    "lengths": "def get_feat_lengths(self, length):\n        return length // 320\n\n"
    "    def frames(self, inputs):\n        x = super().frames(inputs)\n"
    "        sizes = [size // 320 for size in inputs.sizes]\n"
    "        return Ragged.from_sequences([one[:size] for one, size in zip(x.split(), sizes)])",
    "batch = alone": "def forward(self, inputs):\n        x = super().forward(inputs)\n"
    "        return x.replace(x.values + x.pad().mean())",
    "NaN in the padding": "def forward(self, inputs):\n        x = super().forward(inputs)\n"
    "        return x.pack(x.pad() + 1e-9 * x.pad().sum((0, 1)) * (x.batch_size > 1))",
    "order of the batch": "def forward(self, inputs):\n        x = super().forward(inputs)\n"
    "        return x.replace(x.values + 0.1 * x.segments[:, None])",
    "deterministic in eval mode": "def forward(self, inputs):\n        x = super().forward(inputs)\n"
    "        return x.replace(nn.functional.dropout(x.values, 0.5))",
    "loaded again": "def __init__(self):\n        super().__init__()\n        import numpy\n"
    "        self.linear.bias = nn.Parameter(torch.from_numpy(numpy.random.randn(4)).float())",
    "features depend on the input": "def forward(self, inputs):\n        x = super().forward(inputs)\n"
    "        return x.replace(x.values * 0 + 1)",
}


@pytest.mark.parametrize("check", ENCODER_CHECKS)
def test_a_fault_in_an_encoder_is_found(check: str, tmp_path: Path) -> None:
    for name, body in (("good", "pass"), ("bad", FAULTS[check])):
        path = tmp_path / f"{name}.py"
        path.write_text(f"{SOURCE}{body}\n")
        found = {finding.check: finding.fault for finding in check_module(f"{path}:Mine", "encoder") if finding.fault}
        assert (check in found) == (name == "bad"), found


@pytest.mark.parametrize("name", ["hashed_ngrams", "qwen2"])
def test_built_in_encoders_pass(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)  # loaded once for all checks
    assert {key: check(lambda: encoder) for key, check in ENCODER_CHECKS.items()} == dict.fromkeys(ENCODER_CHECKS)


def test_a_built_in_encoder_without_its_mask_does_not_pass(
    checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load("fourier2vec", checkpoints)
    assert ENCODER_CHECKS["batch = alone"](lambda: encoder) is None
    monkeypatch.setattr("features.ragged.padding_mask", lambda n, size: torch.ones_like(padding_mask(n, size)))
    assert "features change by" in str(ENCODER_CHECKS["batch = alone"](lambda: encoder))


def test_lengths_that_the_formula_does_not_give_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("fourier2vec", {})
    monkeypatch.setattr(type(encoder), "get_feat_lengths", lambda self, length: length // 320 + 1)
    fault = ENCODER_CHECKS["lengths"](lambda: encoder)
    assert fault == "get_feat_lengths(400) must be the 1 frames that forward returns, found 2"


def test_a_different_length_and_nan_are_infinitely_far() -> None:
    class Fake:
        def forward_layers(self, inputs: Ragged) -> list[Ragged]:
            alone = inputs.batch_size == 1
            return [inputs.map(lambda x: x if alone else x * float("nan"))]

    assert batch_differences(Fake(), [torch.ones(2, 1), torch.ones(1, 1)]) == [float("inf")] * 2  # type: ignore[arg-type]


def test_the_inputs_are_the_same_in_every_call() -> None:
    encoder = load("fourier2vec", {})
    assert all(map(torch.equal, make_inputs(encoder), make_inputs(encoder)))


def test_check_module_says_what_fails_and_takes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{SOURCE}def get_feat_lengths(self, length):\n        return length // 320\n")
    assert run(["check-module", f"{path}:Mine", "--role", "encoder"]) == 1
    assert "get_feat_lengths must be the numbers of frames that forward returns" in capsys.readouterr().out
    path.write_text(f"{SOURCE}pass\n")
    assert run(["check-module", f"{path}:Mine={tmp_path / 'none'}", "--role", "encoder"]) == 1
    assert "must hold the weights of Mine as safetensors" in capsys.readouterr().out
    assert run(["check-module", f"{path}:Mine", "--role", "encoder"]) == 0
    assert parse_selector(f"{path}:Mine", "audio").is_custom
