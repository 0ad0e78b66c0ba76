"""`evaluate` of a series: one look at test, folds together, mean and deviation over seeds, then a comparison."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from test_folds import write_folds
from test_train_head import SMALL, data, made
from tiny import read_jsonl, write_manifest

from cli.main import run as mervn
from features.errors import InputError, UsageError
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.evaluate_series import evaluate_series
from mervn.training.seeds_and_folds import train_series

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
TEST = EvaluateOptions(split="test")


def series(data: Path, output: Path, **changes: Any) -> Path:
    options = TrainHeadOptions(**{**SMALL, "epochs": 1, "output": output, **changes})
    return train_series(options, data).path


def macro_f1(*files: Path) -> float:
    entries = [entry for file in files for entry in read_jsonl(file)]
    true, predicted = ([entry[key] for entry in entries] for key in ("label", "prediction"))
    return float(f1_score(true, predicted, labels=["happy", "sad"], average="macro", zero_division=0))


def test_seeds_are_averaged_and_count_as_one_look(data: Path, tmp_path: Path) -> None:
    folder = series(data, tmp_path / "seeds", num_seeds=3)
    found = evaluate_series(folder, TEST)
    assert found["test_looks"] == 1 and len(read_jsonl(data / "test_access.jsonl")) == 1
    assert read_jsonl(folder / "test_access.jsonl")[0]["run"] == str(folder)
    assert not (folder / "seed-0" / "test_access.jsonl").exists()
    assert evaluate_series(folder, TEST)["test_looks"] == 1
    values = [macro_f1(folder / f"seed-{seed}" / "predictions-test.jsonl") for seed in range(3)]
    saved = json.loads((folder / "metrics-test.json").read_text())
    assert saved["test"]["macro_f1"]["values"] == pytest.approx(values) and saved["seeds"] == [0, 1, 2]
    assert saved["test"]["macro_f1"]["mean"] == pytest.approx(np.mean(values))
    assert saved["test"]["macro_f1"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert saved["test"]["n"] == 8 and saved["folds"] == [] and saved["units"][0]["groups"] == 3
    assert [run["macro_f1"] for run in saved["runs"]] == pytest.approx(values)
    before = (folder / "seed-1" / "metrics-test.json").read_bytes()
    assert evaluate(folder / "seed-1", TEST)["test_looks"] == 1  # a member of the series
    assert len(read_jsonl(data / "test_access.jsonl")) == len(read_jsonl(folder / "seed-1" / "test_access.jsonl")) == 1
    assert (folder / "seed-1" / "metrics-test.json").read_bytes() == before
    (folder / "seed-1" / "model.safetensors").write_bytes((folder / "seed-0" / "model.safetensors").read_bytes())
    assert evaluate(folder / "seed-1", TEST)["test_looks"] == 2  # other weights
    assert evaluate_series(folder, TEST)["test_looks"] == 3


def test_folds_are_scored_together_for_each_seed(data: Path, tmp_path: Path) -> None:
    path = write_folds(data)
    folder = series(data, tmp_path / "all", fold="all", num_seeds=2)
    found = evaluate_series(folder, TEST)
    assert found["test_looks"] == 1 and found["folds"] == [1, 2, 3]
    names = [name for fold in json.loads(path.read_text())["folds"] for name in fold["test"]]
    assert found["test"]["n"] == len(names) == 34
    files = [
        [folder / f"fold-{fold}" / f"seed-{seed}" / "predictions-test.jsonl" for fold in (1, 2, 3)] for seed in (0, 1)
    ]
    assert found["test"]["macro_f1"]["values"] == pytest.approx([macro_f1(*some) for some in files])
    assert found["units"][0]["groups"] == 6  # three speakers of train and three of valid
    interval = found["intervals"]["macro_f1"]
    assert interval["low"] <= found["test"]["macro_f1"]["mean"] <= interval["high"]


def test_one_seed_of_several_folds_has_no_deviation(data: Path, tmp_path: Path) -> None:
    write_folds(data)
    found = evaluate_series(series(data, tmp_path / "all", fold="all"), EvaluateOptions())
    assert found["valid"]["macro_f1"]["std"] is None and len(found["runs"]) == 3
    assert not (data / "test_access.jsonl").exists()
    assert evaluate_series(tmp_path / "all", EvaluateOptions(data=data)) == found
    other = Path(shutil.copytree(data, tmp_path / "other"))
    write_manifest(other / "valid.jsonl", read_jsonl(data / "valid.jsonl")[:6])
    with pytest.raises(UsageError, match="--data cannot be given for the folds of .*all; evaluate their runs one by"):
        evaluate_series(tmp_path / "all", EvaluateOptions(data=other))


def test_other_data_replace_nothing_and_faults_come_before_the_look(data: Path, tmp_path: Path) -> None:
    folder = series(data, tmp_path / "seeds", num_seeds=2)
    evaluate_series(folder, EvaluateOptions())
    before = (folder / "metrics-valid.json").read_bytes()
    write_manifest(data / "valid.jsonl", read_jsonl(data / "valid.jsonl")[:6])
    assert evaluate_series(folder, EvaluateOptions())["valid"]["n"] == 6
    assert (folder / "metrics-valid.json").read_bytes() == before
    assert len(list(folder.glob("metrics-valid-*.json"))) == 1
    with pytest.raises(UsageError, match="no utterance of test has 'dialect'"):
        evaluate_series(folder, EvaluateOptions(split="test", by=("dialect",)))
    (folder / "seed-1" / "metrics.json").unlink()
    with pytest.raises(InputError, match="seed-1 is not complete"):
        evaluate_series(folder, TEST)
    assert not (data / "test_access.jsonl").exists() and not (folder / "seed-0" / "metrics-test.json").exists()


def test_a_series_that_is_trained_again_has_no_scores_of_the_one_before(data: Path, tmp_path: Path) -> None:
    folder = series(data, tmp_path / "seeds", num_seeds=2)
    scores = folder / "metrics-test.json"
    evaluate_series(folder, TEST)
    series(data, folder, num_seeds=2)
    assert scores.is_file()  # nothing was trained
    series(data, folder, num_seeds=2, force=True)
    assert not scores.exists()
    evaluate_series(folder, TEST)
    with pytest.raises(UsageError, match="another configuration"):
        series(data, folder, num_seeds=3, dim=32)
    assert scores.is_file()
    series(data, folder, num_seeds=3)
    assert not scores.exists() and (folder / "seed-0" / "metrics-test.json").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics-test.json").write_text("{}")  # of something else
    series(data, tmp_path / "other", num_seeds=2)
    assert (tmp_path / "other" / "metrics-test.json").is_file()


def test_the_commands_train_evaluate_and_compare_a_series(data: Path, tmp_path: Path, capsys: Captured) -> None:
    small = ["--data", str(data), "--epochs", "1", "--dim", "16", "--mlp", "8", "--num-seeds", "2"]
    folders = [str(tmp_path / "a b"), str(tmp_path / "late")]
    for folder, fusion in zip(folders, ("xattn", "late"), strict=True):
        capsys.readouterr()
        assert mervn(["train-head", *small, "--fusion", fusion, "--output", folder]) == 0
        (evaluate_command,) = re.findall(r"^  mervn (evaluate .*)$", capsys.readouterr().err, re.MULTILINE)
        if fusion == "xattn":
            assert mervn(shlex.split(evaluate_command)) == 0
            out = capsys.readouterr().out
            assert re.search(r"^score +value +over seeds ± +95 % interval", out, re.MULTILINE)
            assert re.search(r"^seed-1 +8 ", out, re.MULTILINE) and "(means over 2 seeds, 8 utterances)" in out
    assert mervn(["compare", *folders]) == 1
    (suggested,) = re.findall(r"^  mervn (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert mervn(shlex.split(suggested)) == 0
    capsys.readouterr()
    assert mervn(["compare", *folders, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "no_test" and "found 3 speakers" in captured.err
    assert json.loads(captured.out)["configuration"].keys() >= {"fusion"}
    assert len(read_jsonl(data / "test_access.jsonl")) == 2  # one look for each series


def test_a_seed_of_other_utterances_is_never_averaged_with_the_others(data: Path, tmp_path: Path) -> None:
    folder = series(data, tmp_path / "seeds", num_seeds=2)
    other = Path(shutil.copytree(data, tmp_path / "other", copy_function=shutil.copy2))
    entries = read_jsonl(other / "test.jsonl")
    write_manifest(other / "test.jsonl", [*entries[2:], *entries[:2]])  # as many, in another order
    config = json.loads((folder / "seed-1" / "config.json").read_text())
    config["options"]["data"] = str(other)
    (folder / "seed-1" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the same utterances and labels, but .*seed-1 has others than .*seed-0"):
        evaluate_series(folder, TEST)
    assert not (data / "test_access.jsonl").exists()
    assert evaluate_series(folder, EvaluateOptions())["valid"]["n"] == 10
