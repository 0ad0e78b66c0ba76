"""Ensembles: the mean of saved probabilities, members that only valid chooses, and a look of its own."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_runs import LABELS, answers, make_utterances, write_run
from sklearn.metrics import f1_score
from tiny import read_jsonl

from cli.main import run as mervn
from features.errors import InputError, UsageError
from mervn.config import EnsembleOptions
from mervn.evaluation import ensemble as module
from mervn.evaluation.ensemble import choose, ensemble
from mervn.run_folder import write_json, write_jsonl

Captured = pytest.CaptureFixture[str]
Entries = list[dict[str, Any]]
UTTERANCES: Entries = make_utterances(8, 6)


def softened(entries: Entries, seed: int) -> Entries:
    """Return predictions whose probabilities are random, with the predicted label in front."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in entries:
        values = np.sort(rng.dirichlet(np.ones(3)))
        others = [label for label in LABELS if label != entry["prediction"]]
        probabilities = dict(zip([*others, entry["prediction"]], values.tolist(), strict=True))
        found.append({**entry, "probabilities": {label: probabilities[label] for label in LABELS}})
    return found


def make_run(
    folder: Path, seed: int, valid: float, test: float, entries: Sequence[Mapping[str, Any]] = UTTERANCES
) -> Path:
    """Write a run with predictions for valid and test that are right at these rates."""
    run = write_run(folder, entries, answers(entries, test, seed), seed=seed, data=str(folder.parent / "data"))
    write_jsonl(run / "predictions-test.jsonl", softened(read_jsonl(run / "predictions-test.jsonl"), seed))
    of_valid = write_run(
        folder.parent / f"{folder.name}-valid", entries, answers(entries, valid, seed + 50), split="valid"
    )
    entries = softened(read_jsonl(of_valid / "predictions-valid.jsonl"), seed + 50)
    write_jsonl(run / "predictions-valid.jsonl", entries)
    write_json(run / "metrics-valid.json", {"schema": 1, "manifest_sha256": "1", "valid": {"n": len(entries)}})
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    (tmp_path / "data").mkdir()
    rates = ((0.9, 0.4), (0.6, 0.6), (0.65, 0.6), (0.34, 0.95))  # the best on test is the worst on valid
    return [make_run(tmp_path / f"run-{i}", i, *rate) for i, rate in enumerate(rates)]


def read(run: Path, split: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    entries = sorted(read_jsonl(run / f"predictions-{split}.jsonl"), key=lambda entry: str(entry["utterance_id"]))
    targets = np.array([LABELS.index(entry["label"]) for entry in entries])
    return targets, np.array([[entry["probabilities"][label] for label in LABELS] for entry in entries])


def test_the_scores_are_those_of_the_mean_of_the_probabilities(runs: list[Path], tmp_path: Path) -> None:
    lines = (runs[1] / "predictions-test.jsonl").read_text("utf-8").splitlines(keepends=True)
    (runs[1] / "predictions-test.jsonl").write_text("".join(reversed(lines)), "utf-8")  # joined by id
    found = ensemble(runs[:3], EnsembleOptions(split="test", output=tmp_path / "out"))
    targets, _ = read(runs[0], "test")
    mean = (read(runs[0], "test")[1] + read(runs[1], "test")[1] + read(runs[2], "test")[1]) / 3
    expected = f1_score(targets, mean.argmax(1), average="macro", labels=range(3), zero_division=0)
    saved = json.loads((tmp_path / "out" / "metrics-test.json").read_text())
    assert saved["test"]["macro_f1"] == pytest.approx(expected)
    assert saved["test"]["nll"] == pytest.approx(-np.log(mean[np.arange(48), targets]).mean())
    assert saved["intervals"]["macro_f1"]["low"] <= expected <= saved["intervals"]["macro_f1"]["high"]
    assert saved["intervals"]["macro_f1"]["groups"] == 8
    assert np.allclose(read(tmp_path / "out", "test")[1], mean)
    assert found["chosen_on"] is None and len(found["members"]) == 3
    single = f1_score(targets, read(runs[0], "test")[1].argmax(1), average="macro", labels=range(3))  # negative control
    assert saved["members"][0]["macro_f1"] == pytest.approx(single) and single != pytest.approx(expected)


def test_members_are_added_as_long_as_valid_improves(runs: list[Path]) -> None:
    targets, probabilities = read(runs[0], "valid")[0], [read(run, "valid")[1] for run in runs]

    def macro(members: Sequence[int]) -> float:
        mean = np.mean([probabilities[i] for i in members], axis=0)
        return float(f1_score(targets, mean.argmax(1), average="macro", labels=range(3), zero_division=0))

    chosen, scores = choose(targets, probabilities, 3)
    assert scores == pytest.approx([macro(chosen[: i + 1]) for i in range(len(chosen))])
    for step in range(len(chosen)):
        others = [i for i in range(4) if i not in chosen[:step]]
        assert scores[step] == pytest.approx(max(macro([*chosen[:step], i]) for i in others))
    assert all(macro([*chosen, i]) <= scores[-1] + 1e-9 for i in range(4) if i not in chosen)
    assert all(one < two for one, two in pairwise(scores))
    best = max(macro(some) for size in range(1, 5) for some in combinations(range(4), size))
    assert max(macro([i]) for i in range(4)) <= scores[-1] <= best + 1e-9


def test_equal_runs_give_the_first_alone() -> None:
    one = np.full((6, 3), 1 / 3) + np.eye(3)[[0, 1, 2, 0, 1, 1]]
    assert choose(np.array([0, 1, 2, 0, 1, 2]), [one, one.copy(), one.copy()], 3)[0] == [0]


def test_test_is_never_used_for_the_choice(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    original, chooser = module.read_predictions, module.choose

    def spy_read(run: Path, config: Any, split: str, command: str) -> Any:
        events.append(split)
        return original(run, config, split, command)

    def spy_choose(*arguments: Any) -> Any:
        events.append("choose")
        return chooser(*arguments)

    monkeypatch.setattr(module, "read_predictions", spy_read)
    monkeypatch.setattr(module, "choose", spy_choose)
    first = ensemble(runs, EnsembleOptions(split="test", choose=True, output=tmp_path / "one"))
    count = len(first["members"])
    assert events == ["valid"] * 4 + ["choose"] + ["test"] * count  # test of the chosen ones alone
    names = [Path(member["run"]).name for member in first["members"]]
    assert names[0] == "run-0" and count < 4
    # other predictions for test: the same choice
    for run, seed in zip(runs, (3, 2, 1, 0), strict=True):
        entries = read_jsonl(runs[0] / "predictions-test.jsonl")
        for entry, label in zip(entries, answers(UTTERANCES, 0.2 * seed, seed), strict=True):
            entry["prediction"] = label
        write_jsonl(run / "predictions-test.jsonl", softened(entries, seed))
    again = ensemble(runs, EnsembleOptions(split="test", choose=True, output=tmp_path / "two"))
    assert again["members"] == first["members"] and again["metrics"]["test"] != first["metrics"]["test"]
    # negative control: other predictions for valid, another choice
    content = [(run / "predictions-valid.jsonl").read_bytes() for run in runs]
    for run, other in zip(runs, reversed(content), strict=True):
        (run / "predictions-valid.jsonl").write_bytes(other)
    other_choice = ensemble(runs, EnsembleOptions(split="test", choose=True, output=tmp_path / "three"))
    assert Path(other_choice["members"][0]["run"]).name == "run-3"


def test_an_ensemble_on_test_is_one_look_and_valid_none(runs: list[Path], tmp_path: Path) -> None:
    assert "test_looks" not in ensemble(runs[:2], EnsembleOptions(output=tmp_path / "a"))["metrics"]
    assert not (tmp_path / "data" / "test_access.jsonl").exists()
    options = EnsembleOptions(split="test", output=tmp_path / "a")
    assert ensemble(runs[:2], options)["metrics"]["test_looks"] == 1
    assert ensemble(runs[1::-1], options)["metrics"]["test_looks"] == 1  # the order does not matter
    assert ensemble(runs[1:3], EnsembleOptions(split="test", output=tmp_path / "b"))["metrics"]["test_looks"] == 2
    assert len(read_jsonl(tmp_path / "a" / "test_access.jsonl")) == 1


def test_faults_end_before_a_folder_or_a_look_exists(runs: list[Path], tmp_path: Path) -> None:
    options = EnsembleOptions(split="test", output=tmp_path / "out")
    cases: list[tuple[list[Path], str]] = [
        (runs[:1], "must have two or more runs, found 1"),
        ([runs[0], runs[1], runs[0]], "each run must be given once, found .*run-0 twice"),
        ([runs[0], tmp_path], "must be the folder of a run"),
    ]
    for some, message in cases:
        with pytest.raises(UsageError, match=message):
            ensemble(some, options)
    (runs[1] / "predictions-test.jsonl").unlink()
    with pytest.raises(InputError, match=r"run-1 has no predictions for test; evaluate it first"):
        ensemble(runs[:2], options)
    few = make_run(tmp_path / "few", 9, 0.5, 0.5, UTTERANCES[:-1])
    with pytest.raises(InputError, match="must be for the same utterances"):
        ensemble([runs[0], few], options)
    with pytest.raises(InputError, match="--unit must name keys of the predictions"):
        ensemble(runs[2:], EnsembleOptions(split="test", output=tmp_path / "out", unit=("room",)))
    assert not (tmp_path / "out").exists() and not (tmp_path / "data" / "test_access.jsonl").exists()


def test_a_folder_of_something_else_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be a new folder or that of this ensemble"):
        ensemble(runs[:2], EnsembleOptions(split="test", output=runs[0]))
    ensemble(runs[:2], EnsembleOptions(output=tmp_path / "out"))
    with pytest.raises(UsageError, match="holds an ensemble of other members"):
        ensemble(runs[1:3], EnsembleOptions(output=tmp_path / "out"))
    assert not (tmp_path / "data" / "test_access.jsonl").exists()


def test_the_command_prints_members_score_and_interval(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mervn(["ensemble", *map(str, runs), "--choose"]) == 0
    out = capsys.readouterr().out
    assert "chosen on valid: " in out and " of 4 runs" in out and "score on valid is too high" in out
    assert "intervals: G = 8 speakers" in out and "valid: macro-F1 " in out
    (folder,) = (tmp_path / "runs").glob("ensemble-*")
    saved = json.loads((folder / "ensemble.json").read_text())
    assert saved["chosen_on"] == "valid" and math.isclose(
        saved["valid_macro_f1"][-1], json.loads((folder / "metrics-valid.json").read_text())["valid"]["macro_f1"]
    )
    assert mervn(["ensemble"]) == 2
