"""Seeding changes the generators of the CPU and of the device in use, and no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_data

from cli.main import run
from features.device import resolve_device
from features.errors import InputError, UsageError
from features.torch_seed import seeded


def test_states_are_given_back_and_numbers_are_those_of_manual_seed() -> None:
    before = torch.get_rng_state()
    with seeded(torch.device("cpu"), 3):
        drawn = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        assert torch.equal(torch.rand(4), drawn)


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Three GPUs that only tell what is asked of their generators."""
    touched: list[tuple[str, Any]] = []

    class Current:
        def __init__(self, device: Any) -> None:
            touched.append(("current", torch.device(device)))

        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda d: touched.append(("save", torch.device(d))))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, d: touched.append(("give back", torch.device(d))))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: touched.append(("seed", seed)))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: touched.append(("seed all", seed)))
    return touched


def test_one_gpu_of_several_is_seeded(three_gpus: list[tuple[str, Any]]) -> None:
    second = torch.device("cuda:1")
    with seeded(second, 3):
        pass
    assert three_gpus == [("save", second), ("current", second), ("seed", 3), ("give back", second)]


def test_training_on_a_cpu_touches_no_gpu(tmp_path: Path, three_gpus: list[tuple[str, Any]]) -> None:
    data = make_data(tmp_path / "data", {"train": 4, "valid": 4, "test": 1})
    shared = ["--data", str(data), "--device", "cpu", "--epochs", "1"]
    encoders = ["--audio-encoder", "fourier2vec", "--text-encoder", "hashed_ngrams"]
    assert run(["extract", "--data", str(data), "--device", "cpu", *encoders]) == 0
    assert run(["train-head", *shared, "--output", str(tmp_path / "head")]) == 0
    assert run(["finetune", *shared, *encoders, "--output", str(tmp_path / "tuned"), "--workers", "0"]) == 0
    assert run(["pretrain-audio", *shared, "--output", str(tmp_path / "audio")]) == 0
    assert three_gpus == []


def test_mps_is_refused_where_float64_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mps", "mps:0"):
        with pytest.raises(UsageError, match="must support float64, in which losses and scores are summed"):
            resolve_device(name, float64=True)
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="--device must be a device that torch can use here"):
            resolve_device("mps")
    data = make_data(tmp_path / "data", {"train": 4, "valid": 4, "test": 1})
    encoders = ["--audio-encoder", "fourier2vec", "--text-encoder", "hashed_ngrams"]
    for command in (["train-head"], ["finetune", *encoders], ["pretrain-audio"]):
        assert run(["extract", "--data", str(data), *encoders]) == 0
        capsys.readouterr()
        assert run([*command, "--data", str(data), "--device", "mps"]) == 2
        assert "mps does not; use --device cpu" in capsys.readouterr().err
