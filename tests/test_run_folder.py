"""A run whose files were edited is refused with one message that names the file; the rest of it is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_result_folder import tune
from test_train_head import SMALL, data, made, stopped, train
from tiny import Recorder, read_jsonl, write_manifest

from cli.main import run as mervn
from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.waveform_split import WaveformSplit
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.metrics import Metrics
from mervn.run_folder import read_config, read_metrics
from mervn.training.setup import open_stored_data, resolve_head_options

__all__ = ["data", "made"]  # fixtures


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    return train(made, made.parent / "whole", epochs=1).path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"{key} is {value!r}": (lambda d, k=key, v=value: d | {k: v})  # type: ignore[misc]
       for key in ("options", "streams", "labels", "inputs", "command", "schema") for value in (None, {}, [], 3, "x")},
    **{f"no {key}": (lambda d, k=key: {n: v for n, v in d.items() if n != k})  # type: ignore[misc]
       for key in ("options", "streams", "labels", "inputs", "command", "schema")},
    "one label": lambda d: d | {"labels": ["sad"]},
    "labels that are numbers": lambda d: d | {"labels": [1, 2]},
    "no data": lambda d: d | {"options": d["options"] | {"data": None}},
    "a width of zero": lambda d: d | {"streams": d["streams"] | {"text": d["streams"]["text"] | {"width": 0}}},
    "a shape with another key": lambda d: d | {"streams": d["streams"] | {"text": d["streams"]["text"] | {"x": 0}}},
    "a stream of another name": lambda d: d | {"streams": {"video": d["streams"]["text"]}},
    "a stream too few": lambda d: d | {"streams": {"text": d["streams"]["text"]},
                                       "inputs": d["inputs"] | {"stores": {"text": d["inputs"]["stores"]["text"]}}},
    "stores that are no list": lambda d: d | {"inputs": d["inputs"] | {"stores": dict.fromkeys(d["streams"])}},
    "a fusion of no name": lambda d: d | {"options": d["options"] | {"fusion": "magic"}},
    "a width that is no number": lambda d: d | {"options": d["options"] | {"dim": "wide"}},
    "a fold that is no number": lambda d: d | {"options": d["options"] | {"fold": 3}},
    "a number that is none": lambda d: d | {"options": d["options"] | {"gamma": float("nan")}},
    "all folds": lambda d: d | {"options": d["options"] | {"fold": "all", "fold_file": "f"},
                                "inputs": d["inputs"] | {"folds": {"sha256": "0"}}},
    "a width without end": lambda d: d | {"options": d["options"] | {"dim": 10**9}},
    "a stream without end": lambda d: d | {"streams": {k: v | {"width": 10**12} for k, v in d["streams"].items()}},
    "another width": lambda d: d | {"options": d["options"] | {"dim": 32}},
    "a model that is no object": lambda d: d | {"models": {"text": None}},
    "models that are a list": lambda d: d | {"models": ["text"]},
    "a list": lambda d: [d],
    "a string": lambda d: "config",
    "null": lambda d: None,
}  # fmt: skip
TEXTS = {
    "deep": nested(100_000),
    "deep inside": '{"options": ' + nested(500) + "}",
    "empty": "",
    "cut": '{"schema": 1, ',
}


def commands(run: Path) -> list[list[str]]:
    flags = ["--dim", str(SMALL["dim"]), "--output", str(run)]
    data = json.loads((run.parent / "data.json").read_text())
    return [
        ["evaluate", str(run), "--split", "valid"],
        ["finetune", "--init-head", str(run), "--output", str(run.parent / "out")],
        ["train-head", "--data", data, *flags],
    ]


@pytest.fixture(autouse=True)
def where(made: Path, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps(str(made)))


@pytest.mark.parametrize("how", CONFIGS)
def test_an_edited_configuration_is_a_message(run: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "config.json"
    path.write_text(json.dumps(CONFIGS[how](json.loads(path.read_text()))))
    for command in commands(run):
        assert mervn(command) in (1, 2)
        assert "config.json" in capsys.readouterr().err or command[0] == "train-head"


@pytest.mark.parametrize("how", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_json_that_is_none_or_too_deep_is_a_message(
    run: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(TEXTS[how])
    with pytest.raises(InputError, match=f"{name} must hold"):
        read_config(run) if name == "config.json" else read_metrics(run)
    if name == "config.json":
        assert [mervn(command) for command in commands(run)] == [1, 1, 1]


@pytest.mark.parametrize(
    "metrics", [None, [], {}, {"valid": None}, {"valid": {}, "selected_epoch": 1, "layer_weights": {}}]
)
def test_edited_metrics_are_a_message(made: Path, run: Path, metrics: Any) -> None:
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics.json must hold|metrics.json: layer_weights must hold"):
        train(made, run, epochs=1)
    assert train(made, run, epochs=1, force=True).trained


@pytest.mark.parametrize("state", ["[]", "{}", nested(100_000), '{"processes": 1, "best": {"epoch": 1}}'])
def test_an_edited_checkpoint_is_a_message(made: Path, run: Path, state: str) -> None:
    (run / "metrics.json").unlink()
    checkpoints = list((run / "checkpoints").glob("epoch-*"))
    if not checkpoints:  # a finished run keeps none
        (run / "checkpoints" / "epoch-00001").mkdir(parents=True)
        (run / "checkpoints" / "epoch-00001" / "state.safetensors").write_bytes(
            (run / "model.safetensors").read_bytes()
        )
        checkpoints = [run / "checkpoints" / "epoch-00001"]
    (checkpoints[0] / "state.json").write_text(state)
    with pytest.raises(InputError, match=r"epoch-.*(must be a complete checkpoint|was written by None processes)"):
        train(made, run, epochs=1)


def test_evaluate_keeps_within_its_memory_budget_and_gives_the_same_numbers(run: Path) -> None:
    reporters = {0.0: Recorder(), 1.0: Recorder()}
    found = []
    for budget, reporter in reporters.items():
        found.append(evaluate(run, EvaluateOptions(split="valid", memory_gb=budget), reporter)["valid"])
    assert found[0] == found[1]
    assert any("streamed from disk" in line for line in reporters[0.0].lines)
    assert any("resident in memory" in line for line in reporters[1.0].lines)


def test_a_budget_for_a_run_without_stores_is_wrong_usage(made: Path, tmp_path: Path) -> None:
    tune(made, tmp_path / "tuned")
    with pytest.raises(UsageError, match="reads audio and transcripts, not stores; leave out --memory-gb"):
        evaluate(tmp_path / "tuned", EvaluateOptions(split="valid", memory_gb=1))
    with pytest.raises(UsageError, match="leave out --features-dir"):
        evaluate(tmp_path / "tuned", EvaluateOptions(features_dir=tmp_path))


@pytest.mark.parametrize("workers", [-1, True, "2", None])
def test_a_number_of_workers_that_cannot_be_is_a_message(run: Path, workers: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    stores = config["inputs"].pop("stores")
    config["inputs"]["encoders"] = {name: {"name": "x"} for name in stores}
    config |= {"command": "finetune", "options": config["options"] | {"workers": workers}}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"options.workers must be 0 or more"):
        read_config(run)


@pytest.mark.parametrize("damaged", ["model.", "best.", "optimizer.0.exp_avg", "process.0.epoch_loss", "process.0.rng"])
def test_a_checkpoint_of_other_shapes_is_a_message(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    run = tmp_path / "run"
    stopped(data, run, 3, monkeypatch)
    (checkpoint,) = (run / "checkpoints").iterdir()
    tensors = load_file(checkpoint / "state.safetensors")
    name = next(name for name in tensors if name.startswith(damaged))
    save_file({**tensors, name: torch.zeros(7, 3, dtype=tensors[name].dtype)}, checkpoint / "state.safetensors")
    with pytest.raises(InputError, match=r"must be (a complete checkpoint|those of this model)|must have the shapes"):
        train(data, run)
    assert train(data, run, force=True).trained


def test_a_character_that_shows_nothing_counts_as_no_syllable_in_both_trainings(data: Path, tmp_path: Path) -> None:
    entries = read_jsonl(data / "train.jsonl")
    entries[4]["transcript"] = "\u200b"  # was missing: the same text
    write_manifest(data / "train.jsonl", entries)
    stored = open_stored_data(resolve_head_options(TrainHeadOptions()), data, SILENT).splits["train"]
    utterances = read_manifests(data, ("train",))["train"]
    encoders = {
        "audio": load_encoder(parse_selector("fourier2vec", "audio")),
        "text": load_encoder(parse_selector("hashed_ngrams", "text")),
    }
    live = WaveformSplit("train", utterances, ["happy", "sad"], encoders, 0)
    assert stored.syllables.tolist() == live.syllables.tolist() and stored.syllables[4] == 0
    assert stored.audio_seconds == pytest.approx(live.audio_seconds)


def test_a_lower_loss_at_an_equal_score_does_not_reset_the_patience(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def scored(*_: Any) -> Metrics:
        calls[0] += 1
        return Metrics(10, 0.5, 0.5, 0.5, 0.5, 1 / calls[0], 0.1, {}, [])

    monkeypatch.setattr("mervn.training.trainer.compute_metrics", scored)
    run = train(data, tmp_path / "run", epochs=20, patience=3).path
    history = read_jsonl(run / "history.jsonl")
    assert len(history) == 4 and history[-1]["best_epoch"] == history[-1]["epoch"]  # the lower loss is still chosen
