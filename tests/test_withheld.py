"""Scores without a modality: equal to those of data that lack it, in files of their own, with a look of their own."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_corrupted import recognise
from test_extract import run as extract
from test_finetune import tune
from test_train_head import SMALL, data, made, train
from tiny import read_jsonl, write_manifest
from tiny_extraction import small_encoders

from cli.main import run as mervn
from features.errors import InputError, UsageError
from features.progress import SILENT
from features.ragged import Ragged
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.split import Batch, BatchRequest
from mervn.data.withheld import WithheldModality
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.evaluate_series import evaluate_series
from mervn.evaluation.open_run import open_run
from mervn.model.saved_run import load_head
from mervn.run_folder import read_config
from mervn.study.pooled_scores import read_predictions
from mervn.training.seeds_and_folds import train_series
from mervn.training.train_head import train_head

__all__ = ["data", "made"]  # fixtures
CPU = torch.device("cpu")
Captured = pytest.CaptureFixture[str]


def drop_transcripts(data: Path) -> None:
    """Remove the transcript of every test utterance."""
    entries = read_jsonl(data / "test.jsonl")
    write_manifest(data / "test.jsonl", [{**entry, "transcript": None} for entry in entries])


def probabilities(path: Path) -> list[float]:
    return [value for entry in read_jsonl(path) for value in entry["probabilities"].values()]


@pytest.mark.filterwarnings("ignore:.* text streams are empty:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"missing": "none"},
        {"fusion": "late"},
        {"fusion": "linear"},
        {"fusion": "bilstm_attn", "missing": "none", "pooling": "attn"},
        {"fusion": "cnn_bilstm_attn"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "token",
)
def test_without_text_equals_data_without_transcripts(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    small = {} if options.get("fusion") == "linear" else {**SMALL, "epochs": 2}
    run = train_head(TrainHeadOptions(**{**small, "output": tmp_path / "run", **options}), data).path
    other = shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns("stores"))
    drop_transcripts(other)
    for selector in small_encoders(tmp_path):
        extract(other, selector)
    evaluate(run, EvaluateOptions(split="test", data=other))
    (expected,) = run.glob("predictions-test-????????.jsonl")
    found = evaluate(run, EvaluateOptions(split="test", without="text"))
    assert found["without"] == "text" and found["test"]["n"] == 8
    mine = probabilities(run / "predictions-test-without-text.jsonl")
    assert mine == pytest.approx(probabilities(expected), abs=1e-6)
    evaluate(run, EvaluateOptions(split="test"))  # negative control
    assert mine != pytest.approx(probabilities(run / "predictions-test.jsonl"), abs=1e-3)


@pytest.mark.filterwarnings("ignore:.* text streams are empty:UserWarning")
@pytest.mark.parametrize("missing", ["token", "none"])
def test_without_audio_equals_a_head_that_is_given_no_frames(data: Path, tmp_path: Path, missing: str) -> None:
    run = train(data, tmp_path / "run", missing=missing).path
    evaluate(run, EvaluateOptions(without="audio"))
    found = probabilities(run / "predictions-valid-without-audio.jsonl")
    opened = open_run(run, EvaluateOptions(device="cpu"), SILENT)
    head, expected = load_head(run, read_config(run)), []
    for i in range(len(opened.split)):
        (batch,) = opened.split.batches([BatchRequest([i])], CPU)
        streams = batch.inputs()
        streams["audio"] = Ragged.from_lengths(torch.zeros(0, streams["audio"].values.shape[1]), [0])
        with torch.inference_mode():
            expected += head(streams).softmax(-1)[0].tolist()
    assert found == pytest.approx(expected, abs=1e-6)
    assert all(value == value for value in found)


def test_a_finetuned_run_is_scored_without_either_modality_and_with_other_transcripts(
    made: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))
    recognise(own)
    run = tune(train(own, tmp_path / "head").path, tmp_path / "tuned", epochs=1).path
    evaluate(run, EvaluateOptions(split="test", without="audio"))
    evaluate(run, EvaluateOptions(split="test", without="text"))
    evaluate(run, EvaluateOptions(split="test", corrupt="asr"))
    assert not (run / "predictions-test.jsonl").exists()
    mine = probabilities(run / "predictions-test-without-text.jsonl")
    heard = probabilities(run / "predictions-test-corrupt-asr.jsonl")
    assert mine != pytest.approx(probabilities(run / "predictions-test-without-audio.jsonl"), abs=1e-3)
    assert mine != pytest.approx(heard, abs=1e-3)
    entries = read_jsonl(own / "test.jsonl")
    drop_transcripts(own)
    evaluate(run, EvaluateOptions(split="test"))
    assert mine == pytest.approx(probabilities(run / "predictions-test.jsonl"), abs=1e-6)
    write_manifest(own / "test.jsonl", [{**entry, "transcript": entry["transcript_asr"]} for entry in entries])
    evaluate(run, EvaluateOptions(split="test"))
    assert heard == pytest.approx(probabilities(run / "predictions-test.jsonl"), abs=1e-6)


def test_the_results_of_the_run_stay_and_each_modality_is_a_look(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    assert evaluate(run, EvaluateOptions(split="test"))["test_looks"] == 1
    names = ("metrics-test.json", "predictions-test.jsonl", "predictions-valid.jsonl")
    before = [(run / name).read_bytes() for name in names]
    assert evaluate(run, EvaluateOptions(split="test", without="text"))["test_looks"] == 2
    assert evaluate(run, EvaluateOptions(split="test", without="text"))["test_looks"] == 2
    assert evaluate(run, EvaluateOptions(split="test", without="audio"))["test_looks"] == 3
    assert evaluate(run, EvaluateOptions(split="test"))["test_looks"] == 3
    evaluate(run, EvaluateOptions(without="text"))  # valid is no look
    assert [(run / name).read_bytes() for name in names] == before
    assert len(read_jsonl(data / "test_access.jsonl")) == len(read_jsonl(run / "test_access.jsonl")) == 3
    saved = json.loads((run / "metrics-test-without-text.json").read_text())
    own = json.loads((run / "metrics-test.json").read_text())
    assert saved["calibration"]["temperature"] == own["calibration"]["temperature"]
    assert saved["by"]["transcript_length"].keys() == own["by"]["transcript_length"].keys()
    assert "without" not in own and saved["intervals"].keys() == own["intervals"].keys()


def test_a_series_is_scored_without_a_modality_in_files_of_its_own(data: Path, tmp_path: Path) -> None:
    folder = train_series(
        TrainHeadOptions(**{**SMALL, "epochs": 1, "output": tmp_path / "s", "num_seeds": 2}), data
    ).path
    found = evaluate_series(folder, EvaluateOptions(split="test", without="audio"))
    assert found["without"] == "audio" and found["test_looks"] == 1
    assert json.loads((folder / "metrics-test-without-audio.json").read_text())["seeds"] == [0, 1]
    assert (folder / "seed-1" / "predictions-test-without-audio.jsonl").is_file()
    assert not (folder / "metrics-test.json").exists()
    assert evaluate_series(folder, EvaluateOptions(split="test"))["test_looks"] == 2
    (folder / "seed-0" / "predictions-valid.jsonl").unlink()
    evaluate(folder / "seed-0", EvaluateOptions(without="audio"))
    with pytest.raises(InputError, match=r"must hold predictions-valid.jsonl"):
        read_predictions(folder / "seed-0", "valid")  # an ablation study never takes them for its own


def test_a_modality_that_is_not_read_or_is_the_only_one_is_refused(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = train(data, tmp_path / "run", fusion="text").path
    with pytest.raises(UsageError, match=r"--without audio must name a modality.*reads only text"):
        evaluate(run, EvaluateOptions(split="test", without="audio"))
    with pytest.raises(UsageError, match=r"--without text must leave a modality.*reads only text"):
        evaluate(run, EvaluateOptions(split="test", without="text"))
    assert mervn(["evaluate", str(run), "--without", "audio"]) == 2
    assert "reads only text" in capsys.readouterr().err
    assert not (data / "test_access.jsonl").exists() and not list(run.glob("*without*"))


def test_the_command_says_what_is_withheld(data: Path, tmp_path: Path, capsys: Captured) -> None:
    run = train(data, tmp_path / "run").path
    assert mervn(["evaluate", str(run), "--without", "text"]) == 0
    assert "valid without text: macro-F1 " in capsys.readouterr().out


def test_both_audio_streams_are_withheld_in_a_whole_batch_and_in_a_part() -> None:
    def read(indices: Any) -> dict[str, Ragged]:
        sizes = [i + 1 for i in indices]
        return {name: Ragged.from_lengths(torch.ones(sum(sizes), 3), sizes) for name in ("text", "audio", "audio_2")}

    inner: Any = SimpleNamespace(
        batches=lambda plan, device: iter([Batch([0, 1, 2], torch.zeros(3), read)]),
        lengths={"text": [1, 2, 3], "audio": [1, 2, 3], "audio_2": [1, 2, 3]},
        inputs_sha256="a",
    )
    split = WithheldModality(inner, "audio")
    (batch,) = split.batches([BatchRequest([0, 1, 2])], CPU)
    for streams, sizes in ((batch.inputs(), (1, 2, 3)), (batch.inputs([2]), (3,))):
        assert streams["text"].sizes == sizes
        for name in ("audio", "audio_2"):
            assert streams[name].sizes == (0,) * len(sizes) and streams[name].values.shape == (0, 3)
    assert split.lengths == {"text": [1, 2, 3], "audio": [0, 0, 0], "audio_2": [0, 0, 0]}
    assert len({split.inputs_sha256, WithheldModality(inner, "text").inputs_sha256, "a"}) == 3
