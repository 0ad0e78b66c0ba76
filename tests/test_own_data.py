"""The data of a run: its fold and its splits, however they are named, and nothing that it was trained on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_folds import write_folds
from test_train_head import data, made, train
from tiny import Messages, read_jsonl, write_manifest

from cli.main import run as mervn
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import CompareOptions, EvaluateOptions
from mervn.evaluation.compare import compare
from mervn.evaluation.evaluate import evaluate

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]


def ids(run: Path, name: str = "test") -> list[str]:
    return [entry["utterance_id"] for entry in read_jsonl(run / f"predictions-{name}.jsonl")]


def with_toml(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "mervn.toml").write_text(text)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("way", ["nothing", "option", "relative", "toml", "moved"])
def test_a_run_of_a_fold_is_scored_on_its_fold(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, way: str, split: str
) -> None:
    (fold, *_) = json.loads(write_folds(data, splits=("train", "valid", "test")).read_text())["folds"]
    run = train(data, tmp_path / "run", fold="1", epochs=1).path
    arguments = ["evaluate", str(run), "--split", split]
    monkeypatch.chdir(tmp_path)
    if way == "option":
        arguments += ["--data", str(data)]
    elif way == "relative":
        arguments += ["--data", "../" + tmp_path.name + "/data"]
    elif way == "toml":
        with_toml(tmp_path, monkeypatch, 'data = "data"\n')
    elif way == "moved":
        data.rename(tmp_path / "moved")
        config = (run / "config.json").read_text()
        assert str(data) in config
        arguments += ["--data", "moved", "--features-dir", "moved/stores"]
    assert mervn(arguments) == 0, capsys.readouterr().err
    assert sorted(ids(run, split)) == sorted(fold[split])
    assert (run / f"metrics-{split}.json").is_file() and not list(run.glob(f"metrics-{split}-*"))
    assert json.loads((run / f"metrics-{split}.json").read_text())["fold"] == 1


def test_the_data_of_a_run_have_priority_over_mervn_toml(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    expected = evaluate(run, EvaluateOptions(split="test"))["test"]
    other = Path(shutil.copytree(data, tmp_path / "other"))
    lines = read_jsonl(other / "train.jsonl")
    write_manifest(other / "test.jsonl", lines[:5])
    write_manifest(other / "train.jsonl", lines[5:])
    with_toml(tmp_path, monkeypatch, 'data = "other"\nfeatures-dir = "nowhere"\naudio-root = "nowhere"\n')
    assert mervn(["evaluate", str(run), "--split", "test"]) == 0
    assert json.loads((run / "metrics-test.json").read_text())["test"] == expected
    assert not list(run.glob("metrics-test-*"))
    capsys.readouterr()
    shutil.rmtree(data)  # the folder of mervn.toml is all that is left, and cannot be compared
    assert (
        mervn(["evaluate", str(run), "--split", "test", "--features-dir", "other/stores", "--audio-root", "other"]) == 0
    )
    assert "warning: other cannot be compared with the data that" in capsys.readouterr().err
    assert len(list(run.glob("metrics-test-*.json"))) == 1


@pytest.mark.parametrize("fold", [None, "1"])
def test_utterances_that_a_run_was_trained_on_are_no_test(data: Path, tmp_path: Path, fold: str | None) -> None:
    write_folds(data)
    run = train(data, tmp_path / "run", epochs=1, fold=fold).path
    trained = read_jsonl(data / "train.jsonl")
    chosen = read_jsonl(data / "valid.jsonl")
    if fold is not None:
        folds = json.loads((data / "folds-3.json").read_text())["folds"][0]
        by_id = {line["utterance_id"]: line for line in trained + chosen}
        trained, chosen = ([by_id[name] for name in folds[split]] for split in ("train", "valid"))
    unseen = read_jsonl(data / "test.jsonl")
    other = Path(shutil.copytree(data, tmp_path / "other"))

    def score(split: str, lines: list[dict[str, Any]], **changes: Any) -> Any:
        for name in ("train", "valid", "test"):
            write_manifest(other / f"{name}.jsonl", lines if name == split else unseen[:1])
        options = EvaluateOptions(**{"split": split, "data": other, "audio_root": data, **changes})
        return evaluate(run, options)[split]["n"]

    assert score("test", unseen[1:]) == score("valid", unseen[1:]) == 7
    for split, seen, count in (("test", trained, 1), ("test", chosen, 2), ("valid", trained, 2)):
        with pytest.raises(InputError, match=f"which hold {count} of the {7 + count} utterances of {split}"):
            score(split, [*unseen[1:], *seen[:count]])
    assert score("valid", [*unseen[1:], chosen[0]]) == 8  # the epoch is chosen on it, as on the run's own valid
    assert score("train", [*unseen[1:], trained[0]]) == 8
    # a copy of the audio is another segment, but has the same id and transcript
    (spoken, *_) = [line for line in trained if line["transcript"]]
    with pytest.raises(InputError, match="which hold 1 of the 8"):
        score("test", [*unseen[1:], spoken], audio_root=other)


def folds_with_test_apart(data: Path) -> Path:
    """Write two folds of train and valid whose test is that of test.jsonl, which training does not read."""
    names = [line["utterance_id"] for split in ("train", "valid") for line in read_jsonl(data / f"{split}.jsonl")]
    test = [line["utterance_id"] for line in read_jsonl(data / "test.jsonl")]
    parts = names[:17], names[17:]
    folds = [{"train": parts[k], "valid": parts[1 - k], "test": test} for k in range(2)]
    path = data / "folds-2.json"
    path.write_text(json.dumps({"schema": 1, "folds": folds}))
    return path


def test_a_copy_with_another_test_manifest_is_other_data(data: Path, tmp_path: Path) -> None:
    folds_with_test_apart(data)
    run = train(data, tmp_path / "run", epochs=1, fold="1").path
    evaluate(run, EvaluateOptions(split="test"))
    before = (run / "metrics-test.json").read_bytes()
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2))
    lines = read_jsonl(copy / "test.jsonl")
    for line in lines:
        line["emotion"] = "happy"
    write_manifest(copy / "test.jsonl", lines)
    evaluate(run, EvaluateOptions(split="test", data=copy))
    assert (run / "metrics-test.json").read_bytes() == before and len(list(run.glob("metrics-test-*.json"))) == 1
    trained = set(json.loads((data / "folds-2.json").read_text())["folds"][0]["train"])
    seen = [line for line in read_jsonl(copy / "train.jsonl") if line["utterance_id"] in trained][: len(lines)]
    write_manifest(copy / "test.jsonl", [{**a, "utterance_id": b["utterance_id"]} for a, b in zip(seen, lines)])
    with pytest.raises(InputError, match=f"which hold {len(lines)} of the {len(lines)} utterances of test"):
        evaluate(run, EvaluateOptions(split="test", data=copy, audio_root=data))


@pytest.mark.parametrize("fold", [None, "1"])
def test_training_in_a_copy_and_training_that_has_changed_are_no_test(
    data: Path, tmp_path: Path, fold: str | None
) -> None:
    folds_with_test_apart(data)
    run = train(data, tmp_path / "run", epochs=1, fold=fold).path
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2))
    trained = read_jsonl(data / "train.jsonl")
    if fold is None:  # with a fold, test has the ids of the fold alone
        write_manifest(copy / "test.jsonl", trained)
        with pytest.raises(InputError, match="which hold 24 of the 24 utterances of test"):
            evaluate(run, EvaluateOptions(split="test", data=copy))
    other = Path(shutil.copytree(data, tmp_path / "other", copy_function=shutil.copy2))
    write_manifest(other / "train.jsonl", trained[:2])
    write_manifest(other / "test.jsonl", trained[2:])
    options = EvaluateOptions(split="test", data=other)
    with pytest.raises(InputError, match="which hold"):
        evaluate(run, options)
    write_manifest(data / "train.jsonl", trained[:2])  # the own folder says no longer what was trained on
    messages = Messages()
    evaluate(run, options, messages)
    assert any("cannot be compared" in line and "or have changed since" in line for line in messages.said)


def test_a_copy_is_compared_where_its_audio_is_read(data: Path, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for path in data.glob("*.wav"):
        path.rename(audio / path.name)
    run = train(data, tmp_path / "run", epochs=1, audio_root=audio).path
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2))
    trained = read_jsonl(data / "train.jsonl")
    write_manifest(copy / "test.jsonl", [{**line, "utterance_id": f"new-{i}"} for i, line in enumerate(trained)])
    for root in (None, audio):
        with pytest.raises(InputError, match="which hold 24 of the 24 utterances of test"):
            evaluate(run, EvaluateOptions(split="test", data=copy, audio_root=root))


def test_leak_baselines_read_train_where_the_run_did(data: Path, made: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    expected = evaluate(run, EvaluateOptions(split="test", leak_baselines=True))["leak_baselines"]
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2))
    shutil.rmtree(copy / "stores")
    settings = ExtractSettings(features_dir=copy / "stores", batch_seconds=2.0)
    for name, modality in (("fourier2vec", "audio"), ("hashed_ngrams", "text")):  # features of test alone
        selector = parse_selector(f"{name}={made.parent / name}", modality)
        extract_stream(read_manifests(copy, ("test",))["test"], selector, settings, SILENT)
    found = evaluate(run, EvaluateOptions(split="test", data=copy, leak_baselines=True))
    assert found["leak_baselines"] == expected


def test_the_folds_of_a_moved_folder_are_found(data: Path, tmp_path: Path, capsys: Captured) -> None:
    path = write_folds(data, splits=("train", "valid", "test"))
    (fold, *_) = json.loads(path.read_text())["folds"]
    run = train(data, tmp_path / "run", epochs=1, fold="1").path
    moved = data.rename(tmp_path / "moved")
    path.parent.mkdir()
    path.write_text("{}")
    arguments = ["evaluate", str(run), "--split", "test", "--data", str(moved), "--leak-baselines"]
    assert mervn(arguments) == 0, capsys.readouterr().err
    assert sorted(ids(run)) == sorted(fold["test"])
    assert "leak_baselines" in json.loads((run / "metrics-test.json").read_text())


def test_changed_labels_of_a_fold_are_another_look(data: Path, tmp_path: Path) -> None:
    folds_with_test_apart(data)
    run = train(data, tmp_path / "run", epochs=1, fold="1").path
    first = evaluate(run, EvaluateOptions(split="test"))
    assert evaluate(run, EvaluateOptions(split="test"))["inputs_sha256"] == first["inputs_sha256"]
    lines = read_jsonl(data / "test.jsonl")
    lines[0]["emotion"] = {"happy": "sad", "sad": "happy"}[lines[0]["emotion"]]
    write_manifest(data / "test.jsonl", lines)
    again = evaluate(run, EvaluateOptions(split="test"))
    assert again["inputs_sha256"] != first["inputs_sha256"] and again["test_looks"] == 2


def test_valid_predictions_of_other_weights_are_refused_until_they_are_scored(data: Path, tmp_path: Path) -> None:
    runs = [train(data, tmp_path / name, epochs=1, seed=seed).path for seed, name in enumerate("ab")]
    options = CompareOptions(split="valid")
    compare(*runs, options)
    third = train(data, tmp_path / "c", epochs=1, seed=2).path
    (runs[0] / "model.safetensors").write_bytes((third / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="must be of the weights in"):
        compare(*runs, options)
    assert evaluate(runs[0], EvaluateOptions(split="test"))["calibration"] is None
    evaluate(runs[0], EvaluateOptions(split="valid"))
    compare(*runs, options)
    assert evaluate(runs[0], EvaluateOptions(split="test"))["calibration"] is not None


def test_one_model_counts_once_in_an_ensemble(data: Path, tmp_path: Path, capsys: Captured) -> None:
    runs = [str(train(data, tmp_path / name, epochs=1, seed=seed).path) for name, seed in zip("abc", (0, 0, 1))]
    assert mervn(["ensemble", *runs, "--output", str(tmp_path / "all")]) == 2
    assert f"each model must be given once, but {runs[0]} and {runs[1]} are the same" in capsys.readouterr().err
    assert mervn(["ensemble", runs[0], runs[2], "--output", str(tmp_path / "two")]) == 0


def test_an_utterance_without_features_leaves_test_the_own_one(data: Path, tmp_path: Path, capsys: Captured) -> None:
    line = read_jsonl(data / "test.jsonl")[0]
    shutil.copy(data / "test-000.wav", data / "new.wav")
    lines = [*read_jsonl(data / "test.jsonl"), {**line, "utterance_id": "new", "wav_path": "new.wav"}]
    write_manifest(data / "test.jsonl", lines)
    runs = [train(data, tmp_path / name, epochs=1, seed=seed).path for seed, name in enumerate("ab")]
    for run in runs:
        with pytest.raises(InputError, match="1 utterances have no features"):
            evaluate(run, EvaluateOptions(split="test"))
        assert evaluate(run, EvaluateOptions(split="test", allow_missing=True))["test"]["missing"] == 1
        assert not list(run.glob("metrics-test-*"))
    assert compare(*runs, CompareOptions()).n == 8
    assert mervn(["ensemble", *map(str, runs), "--split", "test", "--output", str(tmp_path / "both")]) == 0


def test_predictions_of_other_audio_or_transcripts_are_not_compared(data: Path, tmp_path: Path) -> None:
    write_folds(data)
    runs = [train(data, tmp_path / name, epochs=1, fold="1", seed=seed).path for seed, name in enumerate("ab")]
    for run in runs:
        evaluate(run, EvaluateOptions(split="test"))
    compare(*runs, CompareOptions())
    path = runs[0] / "metrics-test.json"
    document = json.loads(path.read_text())
    assert document["content_sha256"].keys() == {"audio", "text"}
    for modality in ("audio", "text"):
        content = {**document["content_sha256"], modality: "0" * 64}
        path.write_text(json.dumps({**document, "content_sha256": content}))
        with pytest.raises(InputError, match=f"differ in content of the {modality}"):
            compare(*runs, CompareOptions())
        del content[modality]  # a run that does not read it
        path.write_text(json.dumps({**document, "content_sha256": content}))
        compare(*runs, CompareOptions())
    del document["content_sha256"]  # of an earlier version
    path.write_text(json.dumps(document))
    compare(*runs, CompareOptions())


def test_other_folds_and_other_utterances_are_named_before_their_content(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    write_folds(data)
    folds = [str(train(data, tmp_path / f"fold-{fold}", epochs=1, fold=fold).path) for fold in "12"]
    assert mervn(["ensemble", *folds, "--split", "valid"]) == 1
    assert "must be for one fold, but" in capsys.readouterr().err
    runs = [train(data, tmp_path / name, epochs=1).path for name in "ab"]
    lines = read_jsonl(runs[1] / "predictions-valid.jsonl")
    (runs[1] / "predictions-valid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    document = json.loads((runs[1] / "metrics.json").read_text())
    document["valid"] = {"n": len(lines) - 1}
    document["content_sha256"] = dict.fromkeys(document["content_sha256"], "0" * 64)
    (runs[1] / "metrics.json").write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=f"same utterances, but only .* has 1 of them, such as {lines[0]['utterance_id']!r}"
    ):
        compare(*runs, CompareOptions(split="valid"))


def test_a_fold_has_no_predictions_of_the_whole_test_manifest(data: Path, tmp_path: Path) -> None:
    write_folds(data)
    runs = [train(data, tmp_path / name, epochs=1, fold="1", seed=seed).path for seed, name in enumerate("ab")]
    for run in runs:
        evaluate(run, EvaluateOptions(split="test"))
        path = run / "metrics-test.json"
        document = json.loads(path.read_text())
        assert document.pop("fold") == 1 and document.pop("folds_sha256")
        path.write_text(json.dumps({**document, "manifest_sha256": "0" * 64}))  # as an earlier version wrote it
    with pytest.raises(
        InputError, match="must be of fold 1, but an earlier version scored test.jsonl; evaluate the run"
    ):
        compare(*runs, CompareOptions())
    for run in runs:
        evaluate(run, EvaluateOptions(split="test"))
    compare(*runs, CompareOptions())


def test_the_content_changes_with_the_audio_and_the_transcripts_alone(data: Path, tmp_path: Path) -> None:
    def content(run: Path, split: str) -> Any:
        name = "metrics.json" if split == "valid" else f"metrics-{split}.json"
        return json.loads((run / name).read_text())["content_sha256"]

    found = {}
    for name, changes in {"a": {}, "b": {"seed": 1}, "audio": {"fusion": "audio"}}.items():
        run = train(data, tmp_path / name, epochs=1, **changes).path
        evaluate(run, EvaluateOptions(split="test"))
        found[name] = {split: content(run, split) for split in ("valid", "test")}
    assert found["a"] == found["b"] and found["a"]["valid"] != found["a"]["test"]
    assert found["audio"] == {split: {"audio": one["audio"]} for split, one in found["a"].items()}


def test_an_own_report_is_renewed_whatever_names_the_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    run = train(data, tmp_path / "run", epochs=1).path
    with_toml(tmp_path, monkeypatch, 'data = "data"\n')
    for options in ([], ["--data", "data"]):
        assert mervn(["evaluate", str(run), "--split", "test", *options]) == 0
        assert re.search("^report: ", capsys.readouterr().err, re.MULTILINE)
