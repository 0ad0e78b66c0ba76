"""Scores with corrupted transcripts: equal to those of data that has these transcripts, beside the original ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract import run as extract
from test_train_head import SMALL, data, made, train
from tiny import make_phobert, read_jsonl, write_manifest
from tiny_extraction import small_encoders

from cli.main import run as mervn
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from features.store.identity import StoreIdentity
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.corrupted import corrupt, edit_distance
from mervn.data.live_text import encode_transcripts
from mervn.data.streams import Stream, open_streams
from mervn.evaluation.compare import unit_difference
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.evaluate_series import evaluate_series
from mervn.evaluation.intervals import group_units
from mervn.training.seeds_and_folds import train_series

__all__ = ["data", "made"]  # fixtures
CPU = torch.device("cpu")
Captured = pytest.CaptureFixture[str]


def probabilities(path: Path) -> list[float]:
    return [value for entry in read_jsonl(path) for value in entry["probabilities"].values()]


def recognise(data: Path, split: str = "test") -> None:
    """Add a transcript of speech recognition that lacks the last word; nothing is recognised in the first."""
    entries = read_jsonl(data / f"{split}.jsonl")
    for number, entry in enumerate(entries):
        words = (entry["transcript"] or "xin chào bạn").split()
        entry["transcript_asr"] = " ".join(words[:-1]) if number else ""
    write_manifest(data / f"{split}.jsonl", entries)


def replaced(data: Path, other: Path, kind: str) -> Path:
    """Copy the data with the corrupted transcripts of test in place of the original ones."""
    changed = corrupt(read_manifests(data, ["test"])["test"], kind).utterances
    shutil.copytree(data, other, ignore=shutil.ignore_patterns("text"))
    entries = read_jsonl(data / "test.jsonl")
    for entry, utterance in zip(entries, changed, strict=True):
        entry["transcript"] = utterance.transcript
    write_manifest(other / "test.jsonl", entries)
    return other


def test_a_head_scores_as_on_data_with_these_transcripts(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    other = replaced(data, tmp_path / "other", "tones")
    extract(other, small_encoders(tmp_path)[1])
    evaluate(run, EvaluateOptions(split="test", data=other))
    (expected,) = run.glob("predictions-test-????????.jsonl")
    stores = {path: path.stat().st_mtime_ns for path in (data / "stores").rglob("*")}
    found = evaluate(run, EvaluateOptions(split="test", corrupt="tones"))
    assert {path: path.stat().st_mtime_ns for path in (data / "stores").rglob("*")} == stores
    mine = probabilities(run / "predictions-test-corrupt-tones.jsonl")
    assert mine == pytest.approx(probabilities(expected), abs=1e-6)
    assert not (run / "predictions-test.jsonl").exists()
    own = evaluate(run, EvaluateOptions(split="test"))
    assert mine != pytest.approx(probabilities(run / "predictions-test.jsonl"), abs=1e-3)  # negative control
    assert found["corrupt"]["original"] == {name: own["test"][name] for name in found["corrupt"]["original"]}
    assert found["corrupt"]["changed_transcripts"] == 7


def test_the_difference_is_paired_and_the_corruption_is_one_look(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    found = evaluate(run, EvaluateOptions(split="test", corrupt="tones"))
    assert found["test_looks"] == 1
    assert evaluate(run, EvaluateOptions(split="test", corrupt="tones"))["test_looks"] == 1
    assert evaluate(run, EvaluateOptions(split="test"))["test_looks"] == 2
    evaluate(run, EvaluateOptions(corrupt="tones"))  # valid is no look
    assert len(read_jsonl(data / "test_access.jsonl")) == len(read_jsonl(run / "test_access.jsonl")) == 2
    sides = []
    for name in ("predictions-test-corrupt-tones", "predictions-test"):
        entries = read_jsonl(run / f"{name}.jsonl")
        sides.append([np.array([int(entry["prediction"] == "sad") for entry in entries])])
    targets = np.array([int(entry["label"] == "sad") for entry in entries])
    units = group_units([entry["speaker_id"] for entry in entries])
    for metric, difference in found["corrupt"]["difference"].items():
        expected = unit_difference(targets, (sides[0], sides[1]), "speaker_id", units, metric, 2)
        assert difference == {"key": "speaker_id", "unit": "speaker_id", **expected.paired.as_json()}
        gap = found["test"][metric] - found["corrupt"]["original"][metric]
        assert difference["difference"] == pytest.approx(gap, abs=1e-12)


def test_a_series_pairs_the_means_over_its_seeds(data: Path, tmp_path: Path, capsys: Captured) -> None:
    options = TrainHeadOptions(**{**SMALL, "epochs": 1, "output": tmp_path / "s", "num_seeds": 2})
    folder = train_series(options, data).path
    assert mervn(["evaluate", str(folder), "--split", "test", "--corrupt", "tones"]) == 0
    out = capsys.readouterr().out
    assert "test with exchanged tone marks: macro-F1 " in out and "7 transcripts differ" in out
    found = json.loads((folder / "metrics-test-corrupt-tones.json").read_text())
    own = evaluate_series(folder, EvaluateOptions(split="test"))
    assert own["test_looks"] == 2 and "corrupt" not in own
    for metric, value in found["corrupt"]["original"].items():
        assert value == pytest.approx(own["test"][metric]["mean"])
        gap = found["test"][metric]["mean"] - value
        assert found["corrupt"]["difference"][metric]["difference"] == pytest.approx(gap, abs=1e-12)


def test_what_cannot_be_corrupted_is_refused_before_a_look(data: Path, tmp_path: Path, capsys: Captured) -> None:
    run = train(data, tmp_path / "run").path
    recognise(data)
    entries = read_jsonl(data / "test.jsonl")
    del entries[2]["transcript_asr"]
    entries[3]["transcript_asr"] = None
    write_manifest(data / "test.jsonl", entries)
    with pytest.raises(InputError, match=r"transcript_asr .* but 2 of 8 utterances of test lack it: test.jsonl:3"):
        evaluate(run, EvaluateOptions(split="test", corrupt="asr"))
    heard = train(data, tmp_path / "heard", fusion="audio").path
    with pytest.raises(UsageError, match=r"--corrupt tones needs a run that reads text, but .*heard reads only audio"):
        evaluate(heard, EvaluateOptions(split="test", corrupt="tones"))
    assert mervn(["evaluate", str(run), "--corrupt", "tones", "--without", "text"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert not (data / "test_access.jsonl").exists() and not list(run.glob("*corrupt*"))


def test_the_tones_depend_on_the_id_alone_and_nothing_is_added(data: Path) -> None:
    utterances = read_manifests(data, ["train"])["train"]
    changed = corrupt(utterances, "tones").utterances
    alone = [corrupt([utterance], "tones").utterances[0] for utterance in reversed(utterances)]
    assert alone[::-1] == list(changed)
    assert [one.transcript for one in changed if one.transcript == ""] == [""] * 4  # missing ones stay empty
    same_text = [replace(utterances[0], utterance_id=f"u{i}") for i in range(12)]
    assert len({one.transcript for one in corrupt(same_text, "tones").utterances}) > 1


def test_the_error_rate_is_the_distance_per_syllable(data: Path) -> None:
    assert edit_distance(["a", "b", "c", "d"], ["a", "x", "c"]) == 2
    assert edit_distance([], ["a"]) == 1 and edit_distance(["a"], []) == 1 and edit_distance([], []) == 0
    assert edit_distance("kitten", "sitting") == 3
    utterances = read_manifests(data, ["valid"])["valid"]
    assert corrupt([utterances[4]], "tones").syllable_error_rate is None  # has no transcript
    heard = [replace(one, extra={"transcript_asr": f"{one.transcript} à"}) for one in utterances[:4]]
    found = corrupt(heard, "asr")
    count = sum(len((one.transcript or "").split()) for one in heard)
    assert found.syllable_error_rate == pytest.approx(4 / count) and found.changed == 4


def test_several_layers_are_encoded_as_the_stores_were(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    make_phobert(tmp_path / "phobert")
    selector = parse_selector(f"phobert={tmp_path / 'phobert'}@0,2", "text")
    utterances = read_manifests(data, ["train"])["train"]
    extract_stream(utterances, selector, ExtractSettings(data / "stores"), SILENT)
    options = TrainHeadOptions(text_encoder=str(selector))
    stream: Stream = open_streams(options, data, ["text"])["text"]
    found = encode_transcripts(stream, utterances, CPU)
    for utterance, features in zip(utterances, found, strict=True):
        layers = [np.array(store[utterance.utterance_id]) for store in stream.stores]
        assert features.dtype == torch.float16
        np.testing.assert_allclose(features.numpy(), np.stack(layers, 1), atol=2e-3)
    changed = encode_transcripts(stream, corrupt(utterances, "tones").utterances, CPU)
    assert any(len(a) != len(b) or not torch.equal(a, b) for a, b in zip(found, changed, strict=True))
    other: StoreIdentity = replace(stream.first.info.identity, numerics_version=99)
    monkeypatch.setattr(stream.first, "info", replace(stream.first.info, identity=other))
    with pytest.raises(InputError, match=r"(?s)must have been extracted with .*numerics_version: 99 in the store"):
        encode_transcripts(stream, utterances, CPU)
