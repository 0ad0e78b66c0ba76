"""The mean of the weights of the last epochs: which epochs, the exact mean, after an interruption too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_finetune import head, tune
from test_finetune import tuned as tuned
from test_train_head import KILLED, RESULTS, SMALL, data, made, outcome, stopped, train
from tiny import read_jsonl
from torch import Tensor
from warm_process import run_warm

from cli.main import run as mervn
from features.errors import InputError, UsageError
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.model.saved_run import load_tuned
from mervn.run_folder import read_config
from mervn.training.averaging import RecentWeights, averaged_epochs
from mervn.training.trainer import Trainer

__all__ = ["data", "head", "made"]  # fixtures
FAST: dict[str, Any] = {"learning_rate": 0.01, "epochs": 5, "patience": 5}
"""Weights of the epochs that differ, and a best epoch after the first."""


@pytest.mark.parametrize(
    ("epoch", "count", "expected"),
    [(5, 1, [5]), (5, 3, [3, 4, 5]), (2, 3, [1, 2]), (1, 4, [1]), (0, 3, [0]), (3, 3, [1, 2, 3])],
)
def test_the_averaged_epochs_end_with_the_selected_one(epoch: int, count: int, expected: list[int]) -> None:
    assert averaged_epochs(epoch, count) == expected


def weights_of(epoch: int) -> dict[str, Tensor]:
    values = torch.randn(3, 2, generator=torch.Generator().manual_seed(epoch))
    return {"w": values, "half": values.half(), "steps": torch.tensor(10 * epoch)}


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_mean_is_that_of_the_last_epochs(count: int) -> None:
    recent = RecentWeights(count)
    for epoch in range(6):
        kept = {name: tensor.clone() for name, tensor in weights_of(epoch).items()}
        found = recent.add(epoch, kept)
        stacks = [weights_of(each) for each in averaged_epochs(epoch, count)]
        for name in ("w", "half"):
            exact = torch.stack([stack[name].double() for stack in stacks]).mean(0)
            torch.testing.assert_close(found[name], exact.to(kept[name].dtype), rtol=1e-7, atol=1e-7)
            assert found[name].dtype == kept[name].dtype
        assert found["steps"] == 10 * epoch
        kept["w"].add_(100)  # training continues in the same tensors


def test_equal_weights_have_themselves_as_mean() -> None:
    recent, weights = RecentWeights(3), weights_of(1)
    for epoch in range(1, 6):
        assert torch.equal(recent.add(epoch, weights)["w"], weights["w"])


def test_saved_and_loaded_goes_on_to_the_same_mean_and_other_epochs_or_shapes_are_refused() -> None:
    recent, again = RecentWeights(3), RecentWeights(3)
    for epoch in (1, 2, 3, 4):
        recent.add(epoch, weights_of(epoch))
    again.load(recent.tensors(), 4, weights_of(4))
    means = [each.add(5, weights_of(5)) for each in (recent, again)]
    assert torch.equal(means[0]["w"], means[1]["w"])
    with pytest.raises(InputError, match=r"those of the epochs \[2, 3\], found \[4, 5\]"):
        again.load(recent.tensors(), 3, weights_of(4))
    with pytest.raises(InputError, match="1 differ: w"):
        again.load(recent.tensors(), 5, weights_of(4) | {"w": torch.zeros(2)})
    with pytest.raises(InputError, match=r"those of the epochs \[\], found \[4, 5\]"):
        RecentWeights(1).load(recent.tensors(), 5, weights_of(4))


def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Tensor]]:
    """Return a dict that every epoch of the next training adds its weights to."""
    weights: dict[int, dict[str, Tensor]] = {}
    original: Callable[..., Any] = Trainer._score

    def score(self: Trainer, epoch: int, *arguments: Any) -> Any:
        weights[epoch] = {name: tensor.clone() for name, tensor in self.trained_weights().items()}
        return original(self, epoch, *arguments)

    monkeypatch.setattr(Trainer, "_score", score)
    return weights


def test_the_model_of_a_run_is_the_mean_and_its_metrics_are_those_of_the_mean(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = recorded(monkeypatch)
    run = train(data, tmp_path / "run", **FAST, average_last=3)
    selected, averaged = run.metrics["selected_epoch"], run.metrics["averaged_epochs"]
    assert selected > 1 and averaged == averaged_epochs(selected, 3)
    saved = load_file(run.path / "model.safetensors")
    for name, found in saved.items():
        exact = torch.stack([epochs[each][name].double() for each in averaged]).mean(0)
        torch.testing.assert_close(found, exact.float(), rtol=1e-7, atol=0)
    assert not torch.equal(saved["classifier.layers.1.weight"], epochs[selected]["classifier.layers.1.weight"])
    assert evaluate(run.path, EvaluateOptions())["valid"] == run.metrics["valid"]
    plain = train(data, tmp_path / "plain", **FAST)
    assert plain.metrics["selected_epoch"] == selected and "averaged_epochs" not in plain.metrics
    assert plain.metrics["valid"]["nll"] != run.metrics["valid"]["nll"]
    assert outcome(plain.path)[-1] == outcome(run.path)[-1]  # the epochs are the same, and scored by their own weights


def test_a_mean_of_one_is_the_run_of_before(data: Path, tmp_path: Path) -> None:
    plain, one = train(data, tmp_path / "plain"), train(data, tmp_path / "one", average_last=1)
    for name in (*RESULTS, "config.json"):
        assert (plain.path / name).read_bytes() == (one.path / name).read_bytes()
    assert "average_last" not in read_config(plain.path).options
    assert not train(data, tmp_path / "plain", average_last=1).trained
    with pytest.raises(UsageError, match="average_last: existing None, requested 2"):
        train(data, tmp_path / "plain", average_last=2)


def test_killed_in_mid_epoch_and_resumed_equals_undisturbed(data: Path, tmp_path: Path) -> None:
    changes = {**FAST, "average_last": 3, "batch_size": 3, "checkpoint_steps": 2, "threads": torch.get_num_threads()}
    whole = train(data, tmp_path / "whole", **changes)
    options = TrainHeadOptions(**{**SMALL, **changes, "output": tmp_path / "broken"})
    killed = run_warm(KILLED.format(stop=29), [options.model_dump_json(exclude_unset=True), str(data)])
    assert killed.returncode == -9, killed.stderr
    (checkpoint,) = (tmp_path / "broken" / "checkpoints").iterdir()
    assert checkpoint.name.startswith("epoch-00004-step-")
    names = {name.split(".")[1] for name in load_file(checkpoint / "state.safetensors") if name.startswith("recent.")}
    assert names == {"2", "3"}
    assert train(data, tmp_path / "broken", **changes).trained
    assert whole.metrics["selected_epoch"] >= 4  # the mean needs epochs from before the kill
    assert outcome(tmp_path / "broken") == outcome(whole.path)


def test_a_checkpoint_without_the_weights_of_an_epoch_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(data, tmp_path / "run", 3, monkeypatch, average_last=3)
    path = next((tmp_path / "run" / "checkpoints").glob("epoch-*")) / "state.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith("recent.1.")}, path)
    with pytest.raises(InputError, match=r"those of the epochs \[1, 2\], found \[2\]"):
        train(data, tmp_path / "run", average_last=3)


def test_fine_tuning_averages_encoders_and_head_and_resumes_exactly(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"average_last": 2, "epochs": 3, "checkpoint_steps": 2, "seed": 1}
    with monkeypatch.context() as patch:
        epochs = recorded(patch)
        whole = tune(head, tmp_path / "whole", **changes)
    averaged = whole.metrics["averaged_epochs"]
    assert len(averaged) == 2 and averaged[-1] == whole.metrics["selected_epoch"]
    saved = load_file(whole.path / "model.safetensors")
    for name, found in saved.items():
        exact = torch.stack([epochs[each][f"head.{name}"].double() for each in averaged]).mean(0)
        torch.testing.assert_close(found, exact.float(), rtol=1e-7, atol=0)
    encoder = load_tuned(whole.path, "audio", "fourier2vec").state_dict()
    trained = [name for name in epochs[averaged[0]] if name.startswith("encoders.audio.")]
    assert trained
    for name in trained:
        exact = torch.stack([epochs[each][name].double() for each in averaged]).mean(0)
        torch.testing.assert_close(encoder[name.removeprefix("encoders.audio.")], exact.float(), rtol=1e-7, atol=0)
    found = evaluate(whole.path, EvaluateOptions())["valid"]
    assert found["nll"] == pytest.approx(whole.metrics["valid"]["nll"], abs=1e-6)
    original = Trainer._step

    def stop(self: Trainer, group: Any, read: Any, seed: Any) -> None:
        if seed[1:] == (3, 1):
            raise KeyboardInterrupt
        original(self, group, read, seed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", stop)
        tune(head, tmp_path / "broken", **changes)
    tune(head, tmp_path / "broken", **changes)
    assert outcome(tmp_path / "broken") == outcome(whole.path)


def test_the_command_names_the_epochs_and_refuses_a_count_below_one(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-head", "--data", str(made), "--output", str(tmp_path / "run"), "--dim", "16", "--mlp", "8"]
    assert mervn([*command, "--epochs", "3", "--average-last", "0"]) == 2
    assert "--average-last" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert mervn([*command, "--epochs", "3", "--average-last", "2"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    named = ", ".join(map(str, metrics["averaged_epochs"]))
    assert f"weights: the mean of the epochs {named}" in capsys.readouterr().err
    assert len(read_jsonl(tmp_path / "run" / "history.jsonl")) == 3
