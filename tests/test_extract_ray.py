"""A Ray cluster gives the content of a local run, also when an actor is killed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_extract import content, run
from tiny import make_data

from cli.main import run as run_command
from features.errors import InputError
from features.store.claims import FOLDER
from features.work import Unit

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_two_actors_of_which_one_is_killed_give_equal_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from features.extract_ray import RayEngine

    data = make_data(tmp_path / "data", {"train": 60, "valid": 10, "test": 10})
    submit = RayEngine.submit
    killed: list[int] = []

    def and_kill(self: RayEngine, unit: Unit) -> None:
        actor = self._idle[-1]
        process = ray.get(actor.process.remote()) if len(self._running) == 1 and not killed else None
        submit(self, unit)
        if process is not None:
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    monkeypatch.setattr(RayEngine, "submit", and_kill)
    result = run(data, engine="ray", workers=2, threads=1)
    assert killed and result.encoded == 80
    assert content(result.path) == content(run(data, features_dir=tmp_path / "local").path)
    left = [path.name for path in Path(result.path).iterdir() if path.name.startswith(".part") or path.name == FOLDER]
    assert not left


def test_a_fault_in_an_actor_is_the_fault_of_the_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    from features import extract_ray

    class Elsewhere(extract_ray.RayWorker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._fault = "every machine must see the folder"

    monkeypatch.setattr(extract_ray, "RayWorker", Elsewhere)
    with pytest.raises(InputError, match="every machine must see the folder"):
        run(data, engine="ray", workers=1, threads=1)


def test_options_of_ray_need_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path)
    assert run_command(["extract", "--data", str(tmp_path), "--workers", "2"]) == 2
    assert "workers and ray_address need --engine ray" in capsys.readouterr().err
    assert run_command(["extract", "--data", str(tmp_path), "--shard", "3/2"]) == 2
    assert "shard must be I/N with I from 1 to N, found 3/2" in capsys.readouterr().err
