"""The table of a recipe: its scores are those of the predictions, and nothing is claimed without an interval."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, recall_score
from test_extract import run as extract
from test_recipe_checks import make_sessions
from tiny import Recorder, read_jsonl

from cli.main import run as mervn
from mervn.config import AblateOptions, EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate_series import evaluate_series
from mervn.evaluation.intervals import Interval
from mervn.study.ablate import StudyResult, ablate
from mervn.study.recipe_table import Line
from mervn.study.recipes import PaperValue
from mervn.training.seeds_and_folds import train_series

GRID = """
seeds = 1
folds = "all"
[base]
text-encoder = "hashed_ngrams"
fusion = "text"
dim = 8
mlp = []
epochs = 2
batch-size = 8
[rows]
pooling = ["mean"]
[paper]
source = "A paper"
table = "Table 1"
protocol = "leave one session out"
differs = ["the head"]
metrics = ["accuracy", "uar"]
[paper.expects]
utterances = 40
labels = 4
folds = 5
fold-key = "session"
[[paper.values]]
axes = { pooling = "mean" }
metric = "accuracy"
value = 0.99
[[paper.values]]
axes = { pooling = "mean" }
metric = "uar"
at-least = 0.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_sessions(tmp_path_factory.mktemp("recipe") / "data")
    for split in ("train", "valid", "test"):
        for line in read_jsonl(folder / f"{split}.jsonl"):
            (folder / line["wav_path"]).touch()  # only the transcripts are read
    extract(folder, "hashed_ngrams")
    return folder


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return study(data, tmp_path_factory.mktemp("study"))


def study(data: Path, folder: Path, text: str = GRID, recorder: Recorder | None = None, **changes: Any) -> StudyResult:
    path = folder / "GRID.toml"
    path.write_text(text)
    options = {"device": "cpu", "jobs": 1, "output": folder / "study", "test": True, **changes}
    return ablate(path, AblateOptions(**options), data, recorder or Recorder())


def lines_of(result: StudyResult) -> list[Line]:
    assert result.recipe is not None
    return list(result.recipe.lines)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predictions(result: StudyResult) -> list[dict[str, Any]]:
    """Return the predictions of all folds on test."""
    entries = []
    for cell in read_csv(result.output / "cells.csv"):
        if cell["pooling"] == "mean":  # not the baseline, which has no line in the table
            entries += read_jsonl(result.output / cell["run"] / "predictions-test.jsonl")
    return entries


def true_and_predicted(entries: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    return [entry["label"] for entry in entries], [entry["prediction"] for entry in entries]


def test_our_scores_are_those_that_evaluate_gives(data: Path, result: StudyResult, tmp_path: Path) -> None:
    options = TrainHeadOptions(
        text_encoder="hashed_ngrams", fusion="text", dim=8, mlp=(), epochs=2, batch_size=8, pooling="mean", fold="all",
        device="cpu", output=tmp_path / "series",
    )  # fmt: skip
    found = evaluate_series(train_series(options, data).path, EvaluateOptions(split="test", device="cpu"))
    by_metric = {line.metric: line for line in lines_of(result)}
    assert list(by_metric) == ["accuracy", "uar"] and found["test"]["n"] == 40
    for metric, line in by_metric.items():
        assert line.ours == pytest.approx(found["test"][metric]["mean"], abs=1e-12)
        assert line.interval is not None and line.interval.groups == 10
        interval = found["intervals"][metric]
        assert (line.interval.low, line.interval.high) == pytest.approx((interval["low"], interval["high"]))


def test_scores_and_intervals_are_those_of_the_predictions(result: StudyResult) -> None:
    for line in lines_of(result):
        entries = predictions(result)
        assert len(entries) == 40

        def score(some: list[dict[str, Any]], metric: str = line.metric) -> float:
            true, predicted = true_and_predicted(some)
            if metric == "accuracy":
                return float(accuracy_score(true, predicted))
            return float(recall_score(true, predicted, average="macro"))

        speakers = sorted({entry["speaker_id"] for entry in entries})
        without = [score([entry for entry in entries if entry["speaker_id"] != speaker]) for speaker in speakers]
        mean = sum(without) / len(without)
        error = math.sqrt(9 / 10 * sum((each - mean) ** 2 for each in without))
        half = float(stats.t.ppf(0.975, 9)) * error
        assert line.ours == pytest.approx(score(entries)) and line.interval is not None and half > 0
        assert line.interval.low == pytest.approx(max(0.0, score(entries) - half))
        assert line.interval.high == pytest.approx(min(1.0, score(entries) + half))


def test_the_files_hold_the_table_and_the_data_that_were_checked(result: StudyResult) -> None:
    lines, found = lines_of(result), read_csv(result.output / "recipe.csv")
    assert [entry["row"] for entry in found] == ["pooling=mean"] * 2
    assert [entry["paper"] for entry in found] == ["0.9900", ">= 0.00"]
    assert [float(entry["ours"]) for entry in found] == pytest.approx([line.ours for line in lines], abs=1e-6)
    assert {entry["same_split"] for entry in found} == {"yes"}
    assert [entry["paper_inside"] for entry in found] == ["no", "yes"]
    text = (result.output / "recipe.md").read_text("utf-8")
    for part in ("A paper, Table 1", "leave one session out", "- the head", "- same: one session in test of each fold"):
        assert part in text


def test_other_data_are_not_comparable_and_said_to_be_before_training(
    data: Path, result: StudyResult, tmp_path: Path
) -> None:
    recorder = Recorder()
    text = GRID.replace("utterances = 40", "utterances = 5531")
    other = study(data, tmp_path, text, recorder, output=result.output)  # its cells are complete
    assert other.waiting == 0
    assert {line.same_split for line in lines_of(other)} == {"no: 5531 utterances expected, 40 found"}
    assert [line.inside for line in lines_of(other)] == ["not comparable"] * 2
    warned = [i for i, line in enumerate(recorder.lines) if "does not hold the data of the published scores" in line]
    assert warned and "  differs: 5531 utterances expected, 40 found" in recorder.lines[: warned[0]]


def test_without_known_speakers_there_is_no_interval(data: Path, result: StudyResult, tmp_path: Path) -> None:
    found = study(data, tmp_path, output=result.output, unit="utterance_id")
    assert [line.interval for line in lines_of(found)] == [None] * 2
    assert {line.inside for line in lines_of(found)} == {"no interval: fewer than 4 known speakers"}
    assert [line.ours for line in lines_of(found)] == [line.ours for line in lines_of(result)]


def test_without_test_nothing_is_compared(data: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    text = GRID.replace('folds = "all"', "folds = [1]\nbaselines = false")
    text = text[: text.rindex("[[paper.values]]")]
    found = study(data, tmp_path, text, recorder, test=False)
    assert found.recipe is None and not (found.output / "recipe.csv").exists()
    assert any("add --test" in line for line in recorder.lines)


INTERVAL = Interval(0.5, 0.7, 0.95, "jackknife", "speaker_id", 10, 10.0)


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ({"value": 0.5}, "yes"), ({"value": 0.7}, "yes"), ({"value": 0.49}, "no"), ({"value": 0.71}, "no"),
        ({"at-least": 0.7}, "yes"), ({"at-least": 0.71}, "no"), ({"at-most": 0.5}, "yes"), ({"at-most": 0.49}, "no"),
    ],
)  # fmt: skip
def test_a_score_is_inside_only_if_the_interval_of_the_same_split_contains_it(
    value: dict[str, float], inside: str
) -> None:
    paper = PaperValue.model_validate({"metric": "uar", **value})
    assert Line({}, "uar", paper, 0.6, INTERVAL, "yes").inside == inside
    assert Line({}, "uar", paper, 0.6, INTERVAL, "cannot be shown: no split").inside == "not comparable"
    assert Line({}, "uar", paper, 0.6, None, "yes").inside == "no interval: fewer than 4 known speakers"
    zero = Interval(0.6, 0.6, 0.95, "jackknife", "speaker_id", 10, 10.0)
    assert Line({}, "uar", paper, 0.6, zero, "yes").inside == "no interval: width 0"
    assert Line({}, "uar", None, 0.6, INTERVAL, "yes").inside == "-"
    assert Line({}, "uar", paper, None, None, "yes").inside == "-"


def test_the_command_prints_the_table_and_a_document(
    data: Path, result: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "GRID.toml"
    path.write_text(GRID)
    given = ["--data", str(data), "--device", "cpu", "--jobs", "1", "--output", str(result.output), "--test", "--json"]
    assert mervn(["ablate", str(path), *given]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["recipe"] == [line.as_json() for line in lines_of(result)]
    assert "paper inside?" in captured.err and "differs from the protocol: the head" in captured.err
