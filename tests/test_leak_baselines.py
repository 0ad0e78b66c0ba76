"""Baselines that show shortcuts: planted ones are found, absent ones are not; the scored labels are not read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from test_folds import write_folds
from test_train_head import SMALL, data, made, train
from tiny import read_jsonl, write_manifest

from cli.main import run as mervn
from features.errors import InputError
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.evaluate_series import evaluate_series
from mervn.evaluation.evidence import ScoredUtterances
from mervn.evaluation.leak_baselines import Traits, leak_predictions, leak_scores
from mervn.training.seeds_and_folds import train_series

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
LABELS = ("angry", "happy", "sad")
NAMES = ("duration", "empty_transcript", "seen_transcript", "speaker")


def traits(count: int, seed: int, **planted: Any) -> Traits:
    """Return utterances whose traits tell nothing, apart from those that are planted."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, count)
    chosen = {name: make(targets) for name, make in planted.items()}
    return Traits(
        chosen.get("seconds", np.exp(rng.normal(0, 0.5, count))),
        chosen.get("transcripts", [f"{seed} {i}" if rng.random() < 0.8 else "" for i in range(count)]),
        chosen.get("speakers", [f"s{seed}-{i % 12}" for i in range(count)]),
        targets,
    )


def scored(split: Traits, predictions: np.ndarray[Any, Any] | None) -> ScoredUtterances | None:
    groups = [f"s{i % 12}" for i in range(len(split.targets))]
    return None if predictions is None else ScoredUtterances(split.targets, predictions, {"speaker_id": groups}, {})


def above_chance(train_split: Traits, test: Traits) -> dict[str, list[str]]:
    found = leak_predictions(train_split, test)
    scores = leak_scores({name: scored(test, one) for name, one in found.items()}, LABELS)
    return {name: one["above_chance"] for name, one in scores.items() if one is not None}


PLANTED = {
    "duration": {"seconds": lambda targets: np.exp(targets + 0.01 * np.arange(len(targets)) % 1)},
    "empty_transcript": {"transcripts": lambda targets: ["" if t == 1 else f"{i}" for i, t in enumerate(targets)]},
    "seen_transcript": {"transcripts": lambda targets: [f"câu {t}" for t in targets]},
    "speaker": {"speakers": lambda targets: [f"giọng {t}" for t in targets]},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_shortcut_is_found_by_its_baseline_alone(name: str) -> None:
    found = above_chance(traits(240, 1, **PLANTED[name]), traits(240, 2, **PLANTED[name]))
    assert "macro_f1" in found.pop(name)
    assert not any(found.values()) and len(found) == 3


def test_without_a_shortcut_no_baseline_is_above_chance() -> None:
    found = above_chance(traits(240, 1), traits(240, 2))
    assert not any(found.values()) and found.keys() == set(NAMES)
    only_in_train = traits(240, 1, **PLANTED["speaker"])  # speakers that the scored split does not have
    assert not any(above_chance(only_in_train, traits(240, 2)).values())


def test_duration_is_the_logistic_regression_of_scikit_learn_on_standardised_log_seconds() -> None:
    one, two = traits(90, 1, **PLANTED["duration"]), traits(60, 2, **PLANTED["duration"])
    logs = np.log(one.seconds)
    mean, std = logs.mean(), logs.std()
    model = LogisticRegression(max_iter=1000).fit(((logs - mean) / std)[:, None], one.targets)
    expected = model.predict(((np.log(two.seconds) - mean) / std)[:, None])
    assert np.array_equal(leak_predictions(one, two)["duration"], expected)
    two.seconds[3] = 0  # unknown
    assert leak_predictions(one, two)["duration"] is None


def test_repeated_transcripts_and_speakers_get_their_majority_in_train() -> None:
    one = Traits(
        np.ones(7), ["a", "a", "a", "b", "", "", "c"], ["x", "x", "y", "y", "y", None, None],
        np.array([1, 1, 2, 2, 0, 0, 0]),
    )  # fmt: skip
    two = Traits(np.ones(5), ["a", "b", "", "new", "c"], ["x", "y", None, "z", ""], np.array([0, 0, 1, 1, 2]))
    found = leak_predictions(one, two)
    # 0 is the most frequent label of train; an empty transcript is not one that was seen
    assert np.array_equal(found["seen_transcript"], [1, 2, 0, 0, 0])
    assert np.array_equal(found["speaker"], [1, 2, 0, 0, 0])  # y has 2, 2, 0
    one.targets[4:6] = 1  # empty transcripts; 1 is now the most frequent
    assert np.array_equal(leak_predictions(one, two)["seen_transcript"], [1, 2, 1, 1, 0])


def test_the_predictions_do_not_depend_on_the_labels_that_are_scored() -> None:
    one, two = traits(90, 1), traits(60, 2)
    before = leak_predictions(one, two)
    two.targets[:] = 0
    after = leak_predictions(one, two)
    assert all(np.array_equal(before[name], after[name]) for name in NAMES)
    one.targets[:] = np.roll(one.targets, 1)  # negative control
    assert any(not np.array_equal(before[name], leak_predictions(one, two)[name]) for name in NAMES)


def test_scores_are_those_of_scikit_learn_with_intervals() -> None:
    one, two = traits(240, 1, **PLANTED["speaker"]), traits(240, 2, **PLANTED["speaker"])
    predictions = leak_predictions(one, two)
    predictions["duration"] = None
    found = leak_scores({name: scored(two, each) for name, each in predictions.items()}, LABELS)
    assert found["duration"] is None
    empty = found["empty_transcript"]
    assert empty is not None
    answers = predictions["empty_transcript"]
    assert empty["accuracy"] == pytest.approx(accuracy_score(two.targets, answers))
    assert empty["macro_f1"] == pytest.approx(f1_score(two.targets, answers, average="macro", zero_division=0))
    assert empty["intervals"]["accuracy"]["low"] <= empty["accuracy"] <= empty["intervals"]["accuracy"]["high"]


def five_speakers(data: Path) -> None:
    """Give valid and test more speakers than an interval needs."""
    for split in ("valid", "test"):
        entries = read_jsonl(data / f"{split}.jsonl")
        write_manifest(
            data / f"{split}.jsonl", [{**e, "speaker_id": f"{split}{i // 2}"} for i, e in enumerate(entries)]
        )


def test_the_repeated_sentences_of_a_run_are_reported(data: Path, tmp_path: Path, capsys: Captured) -> None:
    five_speakers(data)
    run = train(data, tmp_path / "run").path
    assert mervn(["evaluate", str(run), "--leak-baselines"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"reads only +macro-F1 +95 % interval +accuracy +95 % interval", out)
    assert re.search(r"^this run +0\.\d{4}", out, re.MULTILINE)
    # both splits have the same sentences, each with one emotion: 8 of 10 have a transcript
    saved = json.loads((run / "metrics-valid.json").read_text())
    assert saved["leak_baselines"].keys() == {*NAMES, "shuffled_labels"}
    assert saved["leak_baselines"]["seen_transcript"]["accuracy"] == pytest.approx(0.9)
    assert saved["leak_baselines"]["speaker"]["accuracy"] == 0.5
    assert "warning: " in out and "the label of the same transcript in train" in out
    assert "the same speaker" not in out
    evaluate(run, EvaluateOptions())
    assert "leak_baselines" not in json.loads((run / "metrics-valid.json").read_text())


def test_on_test_the_look_is_that_of_the_evaluation(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    assert evaluate(run, EvaluateOptions(split="test"))["test_looks"] == 1
    found = evaluate(run, EvaluateOptions(split="test", leak_baselines=True))
    assert found["test_looks"] == 1 and found["leak_baselines"]["speaker"]["macro_f1"] == pytest.approx(1 / 3)
    without = evaluate(run, EvaluateOptions(split="test", leak_baselines=True, without="text"))
    assert without["leak_baselines"] == found["leak_baselines"] and without["test_looks"] == 2


def test_another_train_split_ends_before_the_look(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    write_manifest(data / "train.jsonl", read_jsonl(data / "train.jsonl")[:-1])
    with pytest.raises(InputError, match=r"--leak-baselines need the train split that .*run was trained on"):
        evaluate(run, EvaluateOptions(split="test", leak_baselines=True))
    assert not (data / "test_access.jsonl").exists()
    assert evaluate(run, EvaluateOptions(split="test"))["test"]["n"] == 8


def test_scoring_train_is_wrong_usage(tmp_path: Path, capsys: Captured) -> None:
    assert mervn(["evaluate", str(tmp_path), "--split", "train", "--leak-baselines"]) == 2
    assert "--leak-baselines are trained on train" in capsys.readouterr().err


def test_folds_are_scored_together(data: Path, tmp_path: Path, capsys: Captured) -> None:
    write_folds(data)
    options = TrainHeadOptions(**{**SMALL, "epochs": 1, "output": tmp_path / "all", "fold": "all"})
    folder = train_series(options, data).path
    found = evaluate_series(folder, EvaluateOptions(split="test", leak_baselines=True))
    per_fold = []
    for fold in (1, 2, 3):
        saved = json.loads((folder / f"fold-{fold}" / "metrics-test.json").read_text())
        per_fold.append((saved["test"]["n"], saved["leak_baselines"]["seen_transcript"]["accuracy"]))
    right = sum(count * accuracy for count, accuracy in per_fold)
    together = found["leak_baselines"]["seen_transcript"]
    assert together["accuracy"] == pytest.approx(right / 34)
    assert together["intervals"]["accuracy"]["groups"] == 6
    assert mervn(["evaluate", str(folder), "--leak-baselines"]) == 0
    assert "this run" in capsys.readouterr().out
