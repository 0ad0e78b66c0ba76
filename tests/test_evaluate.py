"""`evaluate`: evidence beside the scores of a run, and faults that end no look at test."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from test_train_head import data, made, train
from tiny import Messages, read_jsonl, write_manifest

from cli.main import run as mervn
from features.errors import InputError, UsageError
from mervn.config import CompareOptions, EvaluateOptions
from mervn.evaluation.calibration import calibrate, fit_temperature
from mervn.evaluation.compare import compare
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.intervals import METRICS
from mervn.report.run_data import read_run

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]


def speakers(data: Path, split: str, count: int) -> None:
    """Spread a split over some speakers, and give each utterance a dialect."""
    entries = read_jsonl(data / f"{split}.jsonl")
    for i, entry in enumerate(entries):
        entry["speaker_id"] = f"s{i % count}"
        if i % 4:
            entry["dialect"] = ("north", "south")[i % 2]
    write_manifest(data / f"{split}.jsonl", entries)


def test_a_score_has_its_evidence_and_the_old_keys_stay(data: Path, tmp_path: Path) -> None:
    speakers(data, "test", 5)
    run = train(data, tmp_path / "run").path
    found = evaluate(run, EvaluateOptions(split="test", by=("dialect",)))
    saved = json.loads((run / "metrics-test.json").read_text())
    assert found == {**saved, "test_looks": 1}
    assert {"schema", "labels", "dropped", "manifest_sha256", "test"} <= saved.keys()
    assert {"n", "missing", "accuracy", "macro_f1", "uar", "weighted_f1", "nll", "ece"} <= saved["test"].keys()
    assert saved["intervals"].keys() == set(METRICS)
    for metric, interval in saved["intervals"].items():
        assert interval["low"] <= saved["test"][metric] <= interval["high"]
        assert (interval["unit"], interval["groups"], interval["level"]) == ("speaker_id", 5, 0.95)
        assert interval["effective_groups"] == pytest.approx(64 / (3 * 4 + 2 * 1))
    assert saved["baselines"]["majority"]["accuracy"] == saved["baselines"]["chance"]["accuracy"] == 0.5
    assert {value: entry["n"] for value, entry in saved["by"]["dialect"].items()} == {
        "north": 2, "south": 4, "unknown": 2
    }  # fmt: skip
    assert saved["by"]["transcript_length"]["empty"]["n"] == 1
    assert saved["by"]["duration"] == {"under 1 s": {**saved["by"]["duration"]["under 1 s"], "n": 8, "groups": 5}}


def test_the_temperature_is_fitted_on_the_predictions_for_valid(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    labels = ["happy", "sad"]

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        entries = read_jsonl(run / f"predictions-{split}.jsonl")
        probabilities = [[entry["probabilities"][label] for label in labels] for entry in entries]
        return np.array([labels.index(entry["label"]) for entry in entries]), np.array(probabilities)

    found = evaluate(run, EvaluateOptions(split="test"))["calibration"]
    assert found == calibrate(*read("test"), fit_temperature(*read("valid"))).as_json()
    assert found["before"]["nll"] == pytest.approx(json.loads((run / "metrics-test.json").read_text())["test"]["nll"])
    of_valid = evaluate(run, EvaluateOptions())["calibration"]
    assert of_valid["temperature"] == found["temperature"] and of_valid["after"] != found["after"]
    (run / "predictions-valid.jsonl").unlink()
    assert evaluate(run, EvaluateOptions(split="test"))["calibration"] is None


def test_faults_end_before_the_look_at_test_is_recorded(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    for options in ({"by": ("dialect",)}, {"unit": ("speaker",)}):
        with pytest.raises(UsageError, match="no utterance of test has"):
            evaluate(run, EvaluateOptions(split="test", **options))
    path = run / "predictions-valid.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"predictions-valid.jsonl:10: must be one JSON object"):
        evaluate(run, EvaluateOptions(split="test"))
    assert not (data / "test_access.jsonl").exists() and not (run / "metrics-test.json").exists()
    evaluate(run, EvaluateOptions())  # writes the predictions again
    assert evaluate(run, EvaluateOptions(split="test"))["test_looks"] == 1


def test_the_keys_of_units_are_saved_for_a_comparison(data: Path, tmp_path: Path) -> None:
    runs = [train(data, tmp_path / f"run-{seed}", seed=seed).path for seed in range(2)]
    options = EvaluateOptions(split="test", unit=("speaker_id", "wav_path"))
    by_wav = CompareOptions(unit=("wav_path",))
    evaluate(runs[0], options)
    evaluate(runs[1], EvaluateOptions(split="test"))
    with pytest.raises(InputError, match=r"run-1/predictions-test.jsonl has no 'wav_path'.*\n.*--unit wav_path"):
        compare(*runs, by_wav)
    evaluate(runs[1], options)
    found = compare(*runs, by_wav)
    assert found.decisive.units.independent  # each utterance has a file of its own
    assert read_jsonl(runs[0] / "predictions-test.jsonl")[3]["wav_path"] == "test-003.wav"


def test_the_command_prints_intervals_units_and_baselines(data: Path, tmp_path: Path, capsys: Captured) -> None:
    speakers(data, "test", 5)
    run = train(data, tmp_path / "run").path
    assert mervn(["evaluate", str(run), "--split", "test", "--by", "dialect,duration"]) == 0
    out = capsys.readouterr().out
    saved = json.loads((run / "metrics-test.json").read_text())
    assert re.search(r"score +value +95 % interval +chance +majority", out)
    for metric, name in (("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("uar", "UAR")):
        interval = saved["intervals"][metric]
        chance, majority = (saved["baselines"][kind][metric] for kind in ("chance", "majority"))
        numbers = (
            f"{saved['test'][metric]:.4f} {interval['low']:.4f} to {interval['high']:.4f} {chance:.4f} {majority:.4f}"
        )
        assert re.search(rf"^{name} +{re.sub(' +', ' +', numbers)}$", out, re.MULTILINE), (name, out)
    assert "intervals: G = 5 speakers, worth G* = 4.6 of equal size" in out
    assert "chance: guess each label equally often; majority: always answer happy" in out
    assert re.search(r"^dialect +utterances +groups", out, re.MULTILINE)
    assert re.search(r"^under 1 s +8 +5 ", out, re.MULTILINE)
    assert "with temperature" in out and re.search(r"^test: macro-F1 .* \(8 utterances\)$", out, re.MULTILINE)


def test_below_four_speakers_the_command_says_that_there_is_no_interval(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = train(data, tmp_path / "run").path
    assert mervn(["evaluate", str(run), "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "no interval: it needs at least 4 units, found G = 3 speakers" in out and "none" in out
    assert json.loads((run / "metrics-test.json").read_text())["intervals"] == dict.fromkeys(METRICS)


def test_a_model_that_gives_nan_has_no_score(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    weights = load_file(run / "model.safetensors")
    for name in weights:
        if name.endswith("bias"):
            weights[name] = weights[name] * float("nan")
    save_file(weights, run / "model.safetensors")
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(InputError, match=r"finite probabilities, found \[nan, nan\] for valid.jsonl:1 'valid-000'"):
        evaluate(run, EvaluateOptions())
    assert sorted(path.name for path in run.iterdir()) == before


def test_the_weights_are_recorded_with_the_scores(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    found = evaluate(run, EvaluateOptions(split="test"))
    assert found["model_sha256"] == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert compare(run, run, CompareOptions()).decisive.paired.difference == 0
    train(data, tmp_path / "other", epochs=1, seed=1)
    (run / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="must be of the weights in"):
        compare(run, run, CompareOptions())
    messages = Messages()
    evaluate(run, EvaluateOptions(split="test"), messages)
    assert messages.said[0] == (
        f"warning: {run / 'model.safetensors'} is not what the training wrote: these are scores of other weights"
    )
    valid = evaluate(run, EvaluateOptions(split="valid"))["valid"]
    shown = read_run(run, "valid")  # scores and predictions of the same weights
    assert shown.scores == valid != shown.metrics["valid"]
    messages.said.clear()
    evaluate(tmp_path / "other", EvaluateOptions(split="test"), messages)
    assert not any("what the training wrote" in line for line in messages.said)


def test_a_label_that_does_not_occur_counts_neither_for_macro_f1_nor_for_uar(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    write_manifest(data / "test.jsonl", [e for e in read_jsonl(data / "test.jsonl") if e["emotion"] == "sad"])
    assert mervn(["evaluate", str(run), "--split", "test"]) == 0
    assert "no utterance of test is happy: macro-F1 and UAR leave it out" in capsys.readouterr().out
    saved = json.loads((run / "metrics-test.json").read_text())
    scores, sad = saved["test"], saved["test"]["per_class"]["sad"]
    assert scores["per_class"]["happy"]["support"] == 0
    assert scores["uar"] == sad["recall"] == scores["accuracy"] and scores["macro_f1"] == sad["f1"]
    together = saved["by"]["duration"]["under 1 s"]
    assert together["n"] == 4 and (together["uar"], together["macro_f1"]) == (scores["uar"], scores["macro_f1"])
    assert mervn(["evaluate", str(run)]) == 0
    assert "no utterance of valid" not in capsys.readouterr().out
