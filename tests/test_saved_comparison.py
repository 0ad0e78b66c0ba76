"""comparison.json and its page: the numbers of scikit-learn, refused folders, and only text from outside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_runs import LABELS, answers, make_utterances, write_run, write_series
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from test_html import Elements
from tiny import write_manifest

from cli.main import run as mervn
from features.errors import InputError
from mervn.config import CompareOptions
from mervn.evaluation.compare import compare
from mervn.evaluation.saved_comparison import comparison_document, comparison_folder
from mervn.report.comparison_page import disagreements, write_comparison_report

HOSTILE = "<script>alert(1)</script></svg>"


def pair(folder: Path, a: Any, b: Any, entries: Any) -> tuple[Path, Path]:
    return write_run(folder / "a", entries, a, data=str(folder)), write_run(folder / "b", entries, b, data=str(folder))


def saved(a: Path, b: Path, **changes: Any) -> dict[str, Any]:
    options = CompareOptions(**changes)
    request = {"unit": list(options.unit)}
    return comparison_document(compare(a, b, options), request)


def test_scores_confusions_and_units_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    entries = make_utterances(7, 9)
    a, b = answers(entries, 0.8, 0), answers(entries, 0.5, 1)
    found = saved(*pair(tmp_path, a, b, entries))
    true = np.array([entry["label"] for entry in entries])
    speakers = np.array([entry["speaker_id"] for entry in entries])
    for side, predicted in (("a", np.array(a)), ("b", np.array(b))):
        assert found["confusions"][side] == confusion_matrix(true, predicted, labels=list(LABELS)).tolist()
        for entry in found["per_class"]:
            expected = f1_score(true == entry["label"], predicted == entry["label"], zero_division=0)
            assert entry[side] == pytest.approx(expected)
        for entry in found["unit_differences"]:
            chosen = speakers == entry["name"]
            present = sorted({*true[chosen], *np.array(a)[chosen], *np.array(b)[chosen]})
            expected = f1_score(true[chosen], predicted[chosen], labels=present, average="macro", zero_division=0)
            assert entry["n"] == 9 and entry[side] == pytest.approx(expected)
    accuracy = next(entry for entry in found["scores"] if entry["metric"] == "accuracy")
    assert accuracy["difference"] == pytest.approx(accuracy_score(true, a) - accuracy_score(true, b))
    tested = next(entry for entry in found["scores"] if entry["metric"] == "macro_f1")
    interval = found["difference"]["interval"]
    assert (tested["low"], tested["high"]) == (interval["low"], interval["high"])
    assert accuracy["low"] != tested["low"]  # each metric has an interval of its own


def test_disagreements_are_utterances_that_one_side_alone_gets_right(tmp_path: Path) -> None:
    entries = make_utterances(6, 4)
    a, b = answers(entries, 0.7, 0), answers(entries, 0.7, 1)
    found = saved(*pair(tmp_path, a, b, entries))
    differing = []
    for entry, one, two in zip(entries, a, b, strict=True):
        if (one == entry["label"]) != (two == entry["label"]):
            differing.append(entry["utterance_id"])
    assert found["differing"] == len(differing)
    assert sorted(entry["utterance_id"] for entry in found["disagreements"]) == differing
    both_wrong = [one != two for one, two, entry in zip(a, b, entries, strict=True) if entry["label"] not in (one, two)]
    assert any(both_wrong)  # two different wrong answers are no disagreement


def test_seeds_are_averaged_and_their_confusions_summed(tmp_path: Path) -> None:
    entries = make_utterances(6, 5)
    a = [answers(entries, 0.9, seed) for seed in range(2)]
    b = [answers(entries, 0.4, 5 + seed) for seed in range(2)]
    found = saved(write_series(tmp_path / "a", entries, a), write_series(tmp_path / "b", entries, b), metric="accuracy")
    assert np.sum(found["confusions"]["a"]) == 2 * len(entries)
    true = np.array([entry["label"] for entry in entries])
    first = found["unit_differences"][0]
    chosen = np.array([entry["speaker_id"] == first["name"] for entry in entries])
    assert first["a"] == pytest.approx(np.mean([(np.array(one) == true)[chosen].mean() for one in a]))
    assert {entry["a"]["right"] for entry in found["disagreements"]} <= {0, 1, 2}


def test_a_comparison_is_written_as_a_page_and_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = make_utterances(8, 6)
    a, b = pair(tmp_path, answers(entries, 0.9, 0), answers(entries, 0.4, 1), entries)
    manifest = []
    for number, entry in enumerate(entries):
        times = {"wav_path": "a.wav", "start": number, "end": number + 1}
        manifest.append({**entry, **times, "emotion": entry["label"], "transcript": f"said {HOSTILE}"})
    write_manifest(tmp_path / "test.jsonl", manifest)
    folder = tmp_path / "comparison"
    command = ["compare", str(a), str(b), "--output", str(folder)]
    assert mervn([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    document = json.loads((folder / "comparison.json").read_text())
    assert printed["report"] == str(folder / "report.html") and printed["sentence"] == document["sentence"]
    first = (folder / "report.html").read_bytes()
    page = Elements(first.decode())
    position = [page.text.index(part) for part in (document["sentence"], "Before you believe it", "Evidence on test")]
    assert position == sorted(position)  # the verdict comes first
    for part in ("smallest difference that this test set could show", "Where A and B disagree", "mervn compare"):
        assert part in page.text
    assert f"said {HOSTILE}" in page.text and page.names.count("script") == 1 and page.names.count("svg") == 3
    assert mervn(["report", str(folder)]) == 0 and (folder / "report.html").read_bytes() == first
    with_text = disagreements(document, True)
    assert with_text and {entry["transcript"] for entry in with_text} == {f"said {HOSTILE}"}
    assert not any(entry["transcript"] for entry in disagreements(document, False))


def test_a_folder_of_anything_else_is_refused_before_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = make_utterances(6, 3)
    a, b = pair(tmp_path, answers(entries, 0.9, 0), answers(entries, 0.4, 1), entries)
    folder = tmp_path / "comparison"
    assert mervn(["compare", str(a), str(b), "--output", str(folder)]) == 0
    capsys.readouterr()
    with comparison_folder(folder, a, b, CompareOptions()):  # the same one again
        pass
    assert mervn(["compare", str(b), str(a), "--output", str(folder)]) == 2
    found = capsys.readouterr()
    assert "holds a comparison of another configuration" in found.err and not found.out
    assert mervn(["compare", str(a), str(b), "--output", str(a)]) == 2
    assert "is not empty and holds no comparison" in capsys.readouterr().err
    path = folder / "comparison.json"
    whole = json.loads(path.read_text())
    for broken, message in (
        ({**whole, "schema": 99}, "of schema 1, but has schema 99"),
        ({key: whole[key] for key in whole if key != "confusions"}, "but lacks confusions"),
        ({**whole, "difference": 3}, "a value is missing or of another type"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=message):
            write_comparison_report(folder)
    path.write_text("{")
    with pytest.raises(InputError, match="must hold a comparison, but cannot be read"):
        write_comparison_report(folder)
