"""Idle OpenMP threads spin for a bounded time, unless the environment sets it."""

import os
import subprocess
import sys

import pytest
import torch

from features import cpu_threads
from features.cpu_threads import ENVIRONMENT_VARIABLES, SPIN_COUNT, bound_spinning, leave_cores
from features.encoders.fourier2vec import DEFAULTS, Fourier2Vec
from features.extraction.worker import LocalEngine

SHOW = "import sys, os; sys.argv[1:] = ['--version']; from cli.main import main\ntry: main()\nexcept SystemExit: pass\n"


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}], ids=str)
def test_the_command_line_bounds_spinning_unless_the_user_has_chosen(chosen: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_VARIABLES} | chosen
    code = SHOW + "print([os.environ.get(name) for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')])"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    expected = [chosen.get("OMP_WAIT_POLICY"), chosen.get("GOMP_SPINCOUNT", None if chosen else SPIN_COUNT)]
    assert result.stdout.splitlines()[-1] == str(expected)


def test_nothing_is_set_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads its environment when torch is loaded: later it would only mislead."""

    for name in ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not bound_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_threads_of_torch_leave_cores_to_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for cores, processes, expected in ((8, 3, 4), (8, 6, 2), (8, 8, 1), (2, 8, 1)):
            monkeypatch.setattr(cpu_threads, "usable_cores", lambda cores=cores: cores)
            with leave_cores(processes):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 4), ("meta", 1)])
def test_an_extraction_leaves_cores_unless_its_encoder_runs_on_the_cpu(device: str, expected: int) -> None:
    encoder, before = Fourier2Vec({**DEFAULTS, "dim": 16, "num_layers": 1}, ("last",)), torch.get_num_threads()
    engine = LocalEngine(encoder, torch.device(device), "fp32", workers=cpu_threads.usable_cores())
    try:
        torch.set_num_threads(4)
        engine.start([], "token")
        assert torch.get_num_threads() == expected
        engine.close()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
