"""The overlap of test with the training is said, recorded and shown; nothing is said about new speech."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_folds import write_folds
from test_train_head import data, made, train
from tiny import RATE, Messages, read_jsonl, wave, write_manifest

from features.audit.check import check_data
from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.report.html import render_run
from mervn.report.run_data import read_run

__all__ = ["data", "made"]  # fixtures
Change = Callable[[Path, dict[str, Any]], None]


def of_speaker(_data: Path, line: dict[str, Any]) -> None:
    line["speaker_id"] = "train-speaker-0"


def of_recording(_data: Path, line: dict[str, Any]) -> None:
    line |= {"wav_path": "train-000.wav", "start": 0.2}


def of_segment(_data: Path, line: dict[str, Any]) -> None:
    line |= {"wav_path": "train-000.wav", "start": 0.01}


def of_samples(data: Path, line: dict[str, Any]) -> None:
    shutil.copy(data / "train-001.wav", data / line["wav_path"])


def of_text(_data: Path, line: dict[str, Any]) -> None:
    line["transcript"] = "Câu, train 0!"


def of_nobody(_data: Path, line: dict[str, Any]) -> None:
    """Change nothing."""


def change_test(data: Path, selector: str, change: Change) -> None:
    """Give each utterance samples and a sentence of its own, change the first one of test, and extract all again."""
    for first, split in enumerate(SPLITS):
        lines = read_jsonl(data / f"{split}.jsonl")
        for number, line in enumerate(lines):
            soundfile.write(data / line["wav_path"], wave(0.4, 100 * first + number), RATE)
            line["transcript"] = f"câu {split} {number}"
        if split == "train":  # so that a third of this file is a segment
            lines[0]["end"] = 0.15
        if split == "test":
            change(data, lines[0])
        write_manifest(data / f"{split}.jsonl", lines)
    extract_all(data, selector)


def extract_all(data: Path, selector: str) -> None:
    settings = ExtractSettings(features_dir=data / "stores", batch_seconds=2.0, update=True)
    utterances = list(read_manifests(data, SPLITS).all_utterances())
    extract_stream(utterances, parse_selector(selector, "audio"), settings, SILENT)


def extract_text(data: Path, made: Path) -> None:
    settings = ExtractSettings(features_dir=data / "stores", update=True)
    selector = parse_selector(f"hashed_ngrams={made.parent / 'hashed_ngrams'}", "text")
    extract_stream(list(read_manifests(data, SPLITS).all_utterances()), selector, settings, SILENT)


def score(run: Path, **options: Any) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the findings by id, and the warning that was said."""
    messages = Messages()
    found = evaluate(run, EvaluateOptions(**{"split": "test", **options}), messages)["overlap"]
    said = "\n".join(text for text in messages.said if "warning" in text or "overlap" in text)
    assert all(remark in said for remark in found["remarks"])
    return {each["id"]: each for each in found["findings"]}, said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (of_nobody, []),
        (of_speaker, ["speaker_overlap"]),
        (of_recording, ["recording_overlap"]),
        (of_segment, ["recording_overlap", "segment_overlap"]),
        (of_samples, ["duplicate_audio"]),
        (of_text, ["transcript_overlap"]),
    ],
)
def test_what_test_shares_with_the_training_is_said_and_recorded(
    data: Path, made: Path, tmp_path: Path, change: Change, expected: list[str]
) -> None:
    change_test(data, f"fourier2vec={made.parent / 'fourier2vec'}", change)
    run = train(data, tmp_path / "run", epochs=1, fusion="audio").path
    found, said = score(run)
    assert list(found) == expected
    assert bool(said) == bool(expected) and all(f": {name}: test and the training: 1" in said for name in expected)
    assert list(score(run, split="valid")[0]) == list(score(run, split="train")[0]) == []
    # the page of the run and the card of its model show it
    assert [each["id"] for each in read_run(run).findings if "test and the training" in each["message"]] == expected
    assert ("test and the training" in render_run(read_run(run))) == bool(expected)


def test_a_fold_is_compared_with_its_own_training(data: Path, made: Path, tmp_path: Path) -> None:
    change_test(data, f"fourier2vec={made.parent / 'fourier2vec'}", of_nobody)
    write_folds(data, splits=SPLITS)
    write_manifest(data / "train.jsonl", [line | {"speaker_id": "one"} for line in read_jsonl(data / "train.jsonl")])
    run = train(data, tmp_path / "run", epochs=1, fusion="audio", fold="1").path
    found, said = score(run)
    assert list(found) == ["speaker_overlap"] and "error: speaker_overlap: test and the training: " in said
    write_manifest(data / "train.jsonl", [line | {"take": 0} for line in read_jsonl(data / "train.jsonl")])
    messages = Messages()
    assert evaluate(run, EvaluateOptions(split="test"), messages)["overlap"] is None
    assert any("what test shares with the training cannot be told" in text for text in messages.said)


def test_copies_under_other_names_are_found_in_other_data(data: Path, made: Path, tmp_path: Path) -> None:
    selector = f"fourier2vec={made.parent / 'fourier2vec'}"
    change_test(data, selector, of_nobody)
    run = train(data, tmp_path / "run", epochs=1, fusion="audio").path
    other = tmp_path / "other"
    other.mkdir()
    lines = []
    for number, (seen, new) in enumerate(zip(read_jsonl(data / "train.jsonl")[1:], read_jsonl(data / "test.jsonl"))):
        # ids of the training with other samples, and samples of the training with other ids
        line = (
            {**seen, "utterance_id": f"new-{number}"} if number < 3 else {**new, "utterance_id": seen["utterance_id"]}
        )
        shutil.copy(data / line["wav_path"], other / f"{number}.wav")
        lines.append({**line, "speaker_id": f"new-{number}", "transcript": str(number), "wav_path": f"{number}.wav"})
    write_manifest(other / "test.jsonl", lines)
    settings = ExtractSettings(features_dir=other / "stores", batch_seconds=2.0)
    extract_stream(read_manifests(other, ("test",))["test"], parse_selector(selector, "audio"), settings, SILENT)
    found, _ = score(run, data=other)
    assert found["duplicate_audio"]["count"] == 3 and len(found) == 1
    shutil.rmtree(data / "stores")  # other data can be scored without the stores of the training
    found, said = score(run, data=other)
    assert found == {} and "copies of 34 utterances of it were not looked for: no store has its features" in said


def test_a_copy_of_the_data_without_features_of_train_is_compared_with_the_stores_of_the_run(
    data: Path, made: Path, tmp_path: Path
) -> None:
    selector = f"fourier2vec={made.parent / 'fourier2vec'}"
    change_test(data, selector, of_samples)
    run = train(data, tmp_path / "run", epochs=1, fusion="audio").path
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copy2))
    shutil.rmtree(copy / "stores")
    settings = ExtractSettings(features_dir=copy / "stores", batch_seconds=2.0)
    extract_stream(read_manifests(copy, ("test",))["test"], parse_selector(selector, "audio"), settings, SILENT)
    assert list(score(run, data=copy)[0]) == ["duplicate_audio"]


def test_pairs_within_the_training_are_not_counted(data: Path, made: Path, tmp_path: Path) -> None:
    selector = f"fourier2vec={made.parent / 'fourier2vec'}"
    change_test(data, selector, of_segment)
    lines = read_jsonl(data / "train.jsonl")
    again = [{**line, "utterance_id": f"again-{i}", "start": 0.02} for i, line in enumerate(lines[2:9])]
    write_manifest(data / "train.jsonl", [*lines, *again])
    extract_all(data, selector)
    run = train(data, tmp_path / "run", epochs=1, fusion="audio").path
    assert score(run)[0]["segment_overlap"]["count"] == 1


def test_what_was_left_out_for_want_of_audio_is_no_training(data: Path, made: Path, tmp_path: Path) -> None:
    selector = f"fourier2vec={made.parent / 'fourier2vec'}"
    change_test(data, selector, of_nobody)
    lines = read_jsonl(data / "train.jsonl")
    (data / "broken.wav").write_bytes(b"")
    broken = {**lines[1], "utterance_id": "broken", "wav_path": "broken.wav", "speaker_id": "test-speaker-0"}
    write_manifest(data / "train.jsonl", [*lines, broken | {"transcript": "khác"}])
    extract_all(data, selector)
    run = train(data, tmp_path / "run", epochs=1, fusion="audio", allow_missing=True).path
    assert score(run) == ({}, "")


def test_silence_is_no_copy_and_what_a_label_leaves_out_is_no_training(data: Path, made: Path, tmp_path: Path) -> None:
    selector = f"fourier2vec={made.parent / 'fourier2vec'}"

    def silent(data: Path, line: dict[str, Any]) -> None:
        for name in (line["wav_path"], "train-001.wav"):
            soundfile.write(data / name, np.zeros(RATE // 4), RATE)

    change_test(data, selector, silent)
    lines = read_jsonl(data / "train.jsonl")
    extra = {**lines[0], "utterance_id": "left-out", "emotion": "angry", "speaker_id": "test-speaker-0", "start": 0.01}
    write_manifest(data / "train.jsonl", [*lines, extra])
    run = train(data, tmp_path / "run", epochs=1, fusion="audio", drop_label=("angry",)).path
    assert score(run)[0] == {}


def test_audio_is_compared_as_far_as_the_check_has_measured_it_for_either_corpus(
    data: Path, made: Path, tmp_path: Path
) -> None:
    change_test(data, f"fourier2vec={made.parent / 'fourier2vec'}", of_samples)
    extract_text(data, made)
    run = train(data, tmp_path / "run", epochs=1, fusion="text").path
    assert score(run)[0] == {}
    check_data(data, data / "stores")
    assert list(score(run)[0]) == ["duplicate_audio"]  # in the same process
    other = Path(shutil.copytree(data, tmp_path / "other", copy_function=shutil.copy2))
    lines = read_jsonl(other / "test.jsonl")[1:]
    for number, line in enumerate(lines):  # other sounds under the names of the training
        line |= {"utterance_id": f"new-{number}", "transcript": f"mới {number}", "wav_path": f"train-{number:03d}.wav"}
        soundfile.write(other / line["wav_path"], wave(0.4, 900 + number), RATE)
        for folder in (data, other):
            os.utime(folder / line["wav_path"], (0, 10**9))
    write_manifest(other / "test.jsonl", lines)
    extract_text(other, made)
    for name in ("train", "valid"):
        (other / f"{name}.jsonl").unlink()
    for folder in (data, other):
        check_data(folder, folder / "stores")
    assert score(run, data=other)[0] == {}
    shutil.copy(data / "valid-003.wav", other / lines[0]["wav_path"])
    check_data(other, other / "stores")
    assert list(score(run, data=other)[0]) == ["duplicate_audio"]
