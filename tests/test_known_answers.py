"""The demo checks the pipeline: the known answers are met, and a missed one is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from mervn.demo import known_answers
from mervn.demo.known_answers import ANSWERS, FUSIONS, SETS, Answer

QUICK = {"epochs": 12, "learning_rate": 2e-3, "patience": 6}
"""Options in which the test differs from the demo: higher learning rate, so that half the epochs find the answers.

Each run has at least 7 epochs, by which xattn has learned `both`; early stopping ends those that learn no more.
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answers, "SETTINGS", known_answers.SETTINGS | QUICK)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "demo"


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def test_an_answer_is_met_by_the_best_of_its_fusions() -> None:
    scores = {"both": {"late": 0.6, "xattn": 0.9}}
    assert Answer("both", ("late", "xattn"), 0.85, at_least=True).met(scores)
    assert not Answer("both", ("late",), 0.85, at_least=True).met(scores)
    assert not Answer("both", ("late", "xattn"), 0.65, at_least=False).met(scores)
    assert Answer("both", ("late",), 0.65, at_least=False).met(scores)


def test_every_fusion_without_the_cause_of_the_labels_has_an_upper_bound() -> None:
    bounded = set()
    for answer in ANSWERS:
        if not answer.at_least:
            bounded |= {(answer.label_set, fusion) for fusion in answer.fusions}
    without_cause = {("audio", "text"), ("text", "audio"), ("both", "text"), ("both", "audio")}
    assert bounded == without_cause | {("none", fusion) for fusion in FUSIONS}


def test_the_known_answers_are_met(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--output", str(demo), "--json"]) == 0
    document = last_line(capsys)
    assert document["met"] is True and document["n_test"] >= 120
    scores = document["macro_f1"]
    assert {label_set: tuple(fusions) for label_set, fusions in scores.items()} == dict.fromkeys(SETS, FUSIONS)
    assert scores["audio"]["audio"] >= 0.85 and scores["text"]["text"] >= 0.95
    assert max(scores["both"]["late"], scores["both"]["xattn"]) >= 0.85
    assert max(scores["both"]["text"], scores["both"]["audio"], *scores["none"].values()) <= 0.65


def test_a_second_demo_trains_nothing_and_a_missed_answer_is_an_error(
    demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {path: path.stat().st_mtime_ns for path in demo.glob("runs/*/model.safetensors")}
    assert len(models) == len(SETS) * len(FUSIONS)
    monkeypatch.setattr(known_answers, "SETS", ("none",))  # the four runs of one set stand for all
    monkeypatch.setattr(known_answers, "ANSWERS", (ANSWERS[-1], Answer("none", ("late",), 0.99, at_least=True)))
    assert run(["demo", "--output", str(demo), "--json"]) == 1
    document = last_line(capsys)
    assert document["met"] is False and document["missed"] == ["none: late >= 0.99"]
    assert models == {path: path.stat().st_mtime_ns for path in demo.glob("runs/*/model.safetensors")}
