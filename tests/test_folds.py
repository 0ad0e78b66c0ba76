"""Folds: read with every fault, trained one by one, tested on their own test utterances."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train_head import SMALL, data, made, outcome, train
from tiny import read_jsonl

from cli.main import run as mervn
from features.errors import InputError, UsageError
from features.manifests.folds import find_folds, read_fold, read_folds
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.run_folder import read_config
from mervn.training.seeds_and_folds import train_series

__all__ = ["data", "made"]  # fixtures


def ids(data: Path, *splits: str) -> list[str]:
    return [entry["utterance_id"] for split in splits for entry in read_jsonl(data / f"{split}.jsonl")]


def write_folds(data: Path, count: int = 3, splits: tuple[str, ...] = ("train", "valid"), **changes: Any) -> Path:
    """Cut the utterances of some manifests into folds, of which each is valid once and test once."""
    names = ids(data, *splits)
    parts = [names[i::count] for i in range(count)]
    folds = [
        {
            "train": [name for i, part in enumerate(parts) if i not in (k, (k + 1) % count) for name in part],
            "valid": parts[k][::-1],
            "test": parts[(k + 1) % count],
        }
        for k in range(count)
    ]
    path = data / f"folds-{count}.json"
    path.write_text(json.dumps({"schema": 1, "folds": folds, **changes}))
    return path


def test_a_fold_is_trained_on_its_own_utterances(data: Path, tmp_path: Path) -> None:
    path = write_folds(data)
    (data / "test.jsonl").unlink()  # what no fold asks for is not read
    run = train(data, tmp_path / "run", fold="2").path
    fold = read_folds(path).fold(2)
    found = [entry["utterance_id"] for entry in read_jsonl(run / "predictions-valid.jsonl")]
    assert sorted(found) == sorted(fold["valid"]) and found != fold["valid"]  # in the order of the manifests
    inputs = read_config(run).inputs
    assert inputs["folds"] == {"file": "folds-3.json", "sha256": read_folds(path).sha256}
    assert inputs["manifests"].keys() == {"train", "valid"}
    other = train(data, tmp_path / "other", fold="1").path
    assert outcome(run) != outcome(other)


def test_all_folds_are_summed_up_and_each_is_what_it_is_alone(data: Path, tmp_path: Path) -> None:
    write_folds(data)
    options = TrainHeadOptions(**SMALL, output=tmp_path / "all", fold="all", num_seeds=2)
    result = train_series(options, data)
    assert len(result.runs) == 6 and result.path == tmp_path / "all"
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    scores = [run.metrics["valid"]["macro_f1"] for run in result.runs]
    assert summary["valid"]["macro_f1"]["values"] == scores
    assert summary["valid"]["macro_f1"]["std"] == pytest.approx(np.std(scores, ddof=1))
    assert summary["folds"]["3"]["macro_f1"]["values"] == scores[4:]
    alone = train(data, tmp_path / "alone", fold="2", seed=1)
    assert outcome(alone.path) == outcome(tmp_path / "all" / "fold-2" / "seed-1")


def test_a_run_of_a_fold_is_evaluated_on_that_folds_test(data: Path, tmp_path: Path) -> None:
    path = write_folds(data)
    run = train(data, tmp_path / "run", fold="3").path
    metrics = evaluate(run, EvaluateOptions(split="test"))
    assert metrics["test"]["n"] == len(read_folds(path).fold(3)["test"]) and metrics["fold"] == 3
    found = {entry["utterance_id"] for entry in read_jsonl(run / "predictions-test.jsonl")}
    assert found == set(read_folds(path).fold(3)["test"])
    assert json.loads((run / "test_access.jsonl").read_text())["split"] == "test"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match="changed since"):
        evaluate(run, EvaluateOptions(split="test"))


def test_a_fold_may_take_utterances_from_the_test_manifest(data: Path) -> None:
    folds = read_folds(write_folds(data, splits=("train", "valid", "test")))
    utterances, manifests = read_fold(data, folds, 1, ("train", "valid"), None)
    assert tuple(manifests) == ("train", "valid", "test")
    assert {u.utterance_id for u in utterances["train"]} == set(folds.fold(1)["train"])
    assert all(u.split == split for split, some in utterances.items() for u in some)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON file of folds"),
        ('{"schema": 2, "folds": [{"train": ["a"], "valid": ["b"]}]}', "must be of the form"),
        ('{"schema": 1, "folds": []}', "must be of the form"),
        ('{"schema": 1, "folds": [{"train": ["a"], "valid": [3]}]}', "must be of the form"),
        ('{"schema": 1, "folds": [{"train": ["a"], "dev": ["b"]}]}', "must be of the form"),
        ('{"schema": 1, "folds": [{"train": ["a"], "valid": []}]}', "fold 1: valid must hold utterances, found none"),
        (
            '{"schema": 1, "folds": [{"train": ["a"], "valid": ["b"]}, {"train": ["a"], "valid": ["b", "a"]}]}',
            "fold 2: an utterance must be in one split, found 'a' in train and valid",
        ),
    ],
)
def test_faults_of_a_fold_file_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "folds-2.json"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_folds(path)


def test_ids_that_are_in_no_manifest_are_named(data: Path) -> None:
    folds = {"train": ["nobody", *ids(data, "train")], "valid": ids(data, "valid")}
    write_folds(data, folds=[folds])
    with pytest.raises(InputError, match="fold 1: 1 ids are in no manifest of .*, such as 'nobody'"):
        train(data, data / "run", fold="1")


def test_which_fold_and_which_file_must_be_clear(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"needs one folds-\*.json in .*, found none"):
        find_folds(data, None)
    write_folds(data)
    for number in ("4", "9"):
        with pytest.raises(UsageError, match=f"must be 1 to 3 or all, for .*, found {number}"):
            train(data, tmp_path / "run", fold=number)
    write_folds(data, 2)
    with pytest.raises(UsageError, match="found folds-2.json, folds-3.json; give it with --fold-file"):
        train(data, tmp_path / "run", fold="1")
    with pytest.raises(UsageError, match="--fold-file .* needs --fold"):
        train(data, tmp_path / "run", fold_file=data / "folds-3.json")
    assert train(data, tmp_path / "run", fold="1", fold_file=data / "folds-3.json").trained
    assert mervn(["train-head", "--data", str(data), "--fold", "0"]) == 2
    assert "--fold: " in capsys.readouterr().err
