"""mervn predict: the numbers of evaluate, windows as cut by hand, and results that survive an interruption."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_finetune import tune
from test_train_head import data, made, train
from tiny import RATE, Recorder, read_jsonl, wave
from tiny_extraction import spoil

from cli.main import run as mervn
from features.audio.resampling import SAMPLE_RATE
from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.use import scoring
from mervn.use.predict import Predictions, predict
from mervn.use.predict_options import PredictOptions
from mervn.use.recognizer import EmotionRecognizer
from mervn.use.saved_blocks import state_path
from mervn.use.scoring import Scorer

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def head(made: Path) -> Path:
    """A head on frozen encoders that has scored test, with and without text."""
    run = train(made, made.parent / "head", pooling="attn").path
    for without in (None, "text"):
        evaluate(run, EvaluateOptions(split="test", without=without, device="cpu"))
    return run


@pytest.fixture(scope="module")
def tuned(head: Path) -> Path:
    run = tune(head, head.parent / "tuned").path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    return run


@pytest.fixture(scope="module")
def layered(made: Path) -> Path:
    """A head on two audio streams, of which the first mixes two layers, stored in fp32."""
    settings = ExtractSettings(features_dir=made.parent / "layered", store_dtype="fp32")
    splits = read_manifests(made, SPLITS)
    audio = f"fourier2vec={made.parent / 'fourier2vec'}"
    for selector, modality in ((f"{audio}@2,0,1", "audio"), (f"hashed_ngrams={made.parent / 'hashed_ngrams'}", "text")):
        extract_stream(list(splits.all_utterances()), parse_selector(selector, modality), settings, SILENT)
    options = {
        "features_dir": settings.features_dir,
        "audio_encoder": f"{audio}@2,0+{audio}@1",
        "fusion": "bilstm_attn",
    }
    run = train(made, made.parent / "layers", **options).path
    evaluate(run, EvaluateOptions(split="test", device="cpu"))
    return run


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of 4 s whose second half is another tone."""
    path = tmp_path / "call.wav"
    soundfile.write(path, np.concatenate([wave(2.0, 1), wave(2.0, 2, pitch=300.0)]), RATE)
    return path


def matrix(found: Predictions) -> Array:
    return np.array([one.probabilities for one in found.predictions])


def scored(run: Path, name: str = "test") -> Array:
    return np.array([list(entry["probabilities"].values()) for entry in read_jsonl(run / f"predictions-{name}.jsonl")])


def call(run: Path, *paths: Path, **options: Any) -> Predictions:
    reporter = options.pop("reporter", Recorder())
    return predict(run, paths, PredictOptions(device="cpu", **options), reporter)


@pytest.mark.parametrize("kind", ["head", "tuned", "layered"])
def test_every_test_utterance_has_the_probabilities_of_evaluate(
    made: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(kind)
    expected = scored(run)
    assert matrix(call(run, manifest=made / "test.jsonl")) == pytest.approx(expected, abs=1e-5)
    recognizer = EmotionRecognizer.from_pretrained(run, device="cpu")
    alone = []
    for entry in read_jsonl(made / "test.jsonl"):
        scores = recognizer(made / entry["wav_path"], entry["transcript"])
        by_label = {one["label"]: one["score"] for one in scores}  # type: ignore[index,call-overload]
        alone.append([by_label[label] for label in recognizer.labels])
    assert np.array(alone) == pytest.approx(expected, abs=1e-5)
    # negative control: without the transcripts, the probabilities are others
    files = [made / entry["wav_path"] for entry in read_jsonl(made / "test.jsonl")]
    without = matrix(call(run, *files))
    assert np.abs(without - expected).max() > 1e-3
    if kind == "head":
        assert without == pytest.approx(scored(run, "test-without-text"), abs=1e-5)


def test_windows_equal_files_that_were_cut_by_hand(head: Path, recording: Path, tmp_path: Path) -> None:
    found = call(head, recording, window=1.5, hop=1.0)
    times = [(one.clip.start, one.end) for one in found.predictions]
    assert times == [(0.0, 1.5), (1.0, 2.5), (2.0, 3.5), (3.0, 4.0)]
    assert np.array_equal(matrix(call(head, recording, window=1.5, hop=1.0, workers=2)), matrix(found))
    samples, _ = soundfile.read(recording, dtype="float32")
    files = []
    for start, end in times:
        files.append(tmp_path / f"cut-{start}.wav")
        soundfile.write(files[-1], samples[round(start * RATE) : round(end * RATE)], RATE)
    assert matrix(found) == pytest.approx(matrix(call(head, *files)), abs=1e-7)
    assert np.diff(matrix(found), axis=0).min(1).max() < -1e-6  # negative control: neighbouring windows differ


class KilledError(Exception):
    """Stands for a kill."""


def test_a_killed_prediction_resumes_to_the_same_bytes(
    head: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BLOCK_S", 1.0)
    options: dict[str, Any] = {"window": 0.5, "batch_seconds": 0.5}
    call(head, recording, output=tmp_path / "whole.json", **options)
    counts: list[int] = []
    score = Scorer.score

    def counted(self: Scorer, clips: Any, samples: Any) -> Any:
        counts.append(len(clips))
        return score(self, clips, samples)

    def stopping(self: Scorer, clips: Any, samples: Any) -> Any:
        if len(counts) == 2:
            raise KilledError
        return counted(self, clips, samples)

    output = tmp_path / "killed.json"
    monkeypatch.setattr(Scorer, "score", stopping)
    with pytest.raises(KilledError):
        call(head, recording, output=output, **options)
    assert not output.exists() and counts == [2, 2]
    state = state_path(output)
    content = state.read_bytes()
    state.write_bytes(content[:-20])  # the last line was cut by the crash
    counts.clear()
    monkeypatch.setattr(Scorer, "score", counted)
    call(head, recording, output=output, **options)
    assert sum(counts) == 6  # the first block was kept, the second had lost a line
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert state.read_bytes().startswith(content[:-200])
    counts.clear()
    call(head, recording, output=output, **options)
    assert counts == []
    soundfile.write(recording, wave(4.0, 3), RATE)  # other content under the same name
    changed = call(head, recording, output=output, **options)
    assert sum(counts) == 8 and changed.failed == []


def test_results_of_another_model_are_refused_and_named(
    head: Path, tuned: Path, recording: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    call(head, recording, output=output)
    with pytest.raises(UsageError, match=r"another model or other options.*\n  model: "):
        call(tuned, recording, output=output)
    call(tuned, recording, output=output, force=True)
    with pytest.raises(UsageError, match="another model"):
        call(head, recording, output=output)
    other = tmp_path / "mine.csv"
    other.write_text("a,b\n")
    with pytest.raises(UsageError, match="was not written by mervn predict"):
        call(head, recording, output=other)
    assert other.read_text() == "a,b\n"


def test_a_file_that_cannot_be_decoded_is_listed_and_the_others_are_predicted(
    head: Path, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    spoil(data, "test-001")
    (data / "test-002.wav").write_bytes(b"no audio")
    output = tmp_path / "out.json"
    arguments = [
        "predict",
        str(head),
        str(data),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--json",
        "--workers",
        "2",
    ]
    assert mervn(arguments) == 1
    captured = capsys.readouterr()
    assert "2 of 42 inputs cannot be used (non_finite: 1, unreadable: 1)" in captured.err
    assert json.loads(captured.out)["failed"] == 2
    entries = {Path(entry["file"]).stem: entry for entry in json.loads(output.read_text())}
    assert len(entries) == 42
    assert entries["test-001"]["error"]["reason"] == "non_finite" and "scores" not in entries["test-001"]
    assert entries["test-002"]["error"]["reason"] == "unreadable"
    scores = entries["test-000"]["scores"]
    assert [set(one) for one in scores] == [{"label", "score"}] * 2
    assert scores[0]["score"] >= scores[1]["score"] and sum(one["score"] for one in scores) == pytest.approx(1)
    soundfile.write(data / "test-001.wav", wave(0.5, 3), RATE)
    soundfile.write(data / "test-002.wav", wave(0.5, 4), RATE)
    assert mervn(arguments) == 0  # what failed is predicted again


def test_the_table_is_one_of_audformat_with_labels_merged_or_left_out(
    head: Path, recording: Path, tmp_path: Path
) -> None:
    call(head, recording, output=tmp_path / "out.csv", window=2.0)
    with (tmp_path / "out.csv").open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["file", "start", "end", "happy", "sad"]
    assert (second["start"], second["end"]) == ("0 days 00:00:02.000000", "0 days 00:00:04.000000")
    assert float(first["happy"]) + float(first["sad"]) == pytest.approx(1)
    merged = call(head, recording, map=("happy=x", "sad=x"))
    assert merged.labels == ("x",) and matrix(merged) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="--labels must name labels of the model .happy, sad., found 'hapy'; did you"):
        call(head, recording, labels=("hapy",))


WRONG = {
    "nothing": ([], "an input must be given"),
    "no file": (["nowhere.wav"], "nowhere.wav does not exist"),
    "hop alone": (["{wav}", "--hop", "1"], "--hop needs --window"),
    "gaps": (["{wav}", "--window", "1", "--hop", "2"], "--hop must be at most --window"),
    "two kinds of parts": (["{wav}", "--window", "1", "--segments", "a.csv"], "exclude each other"),
    "text of two files": (["{wav}", "{data}", "--text", "vui"], "the transcript of one file, found"),
    "text of windows": (["{wav}", "--window", "1", "--text", "vui"], "cannot be given with --window"),
    "suffix": (["{wav}", "--output", "a.txt"], "must end in .json, .jsonl or .csv"),
    "explain alone": (["{wav}", "--explain"], "--explain needs --output"),
    "map": (["{wav}", "--map", "happy"], "must be OLD=NEW"),
    "manifest": (["--manifest", "{wav}"], "--manifest must be a .jsonl file"),
    "no manifest": (["--manifest", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
    "tiny window": (["{wav}", "--window", "0"], "greater than or equal to 0.1"),
    "no Unicode": (["{wav}", "--text", "vui \udcff"], "the text must be valid Unicode"),
    "infinite window": (["{wav}", "--window", "inf"], "--window: input should be a finite number"),
    "speech recognition": (["{wav}", "--transcribe", "tiny"], "--transcribe must have the form whisper=MODEL"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_ends_before_any_work(head: Path, made: Path, recording: Path, name: str, capsys: Captured) -> None:
    arguments, message = WRONG[name]
    filled = [one.format(wav=recording, data=made) for one in arguments]
    assert mervn(["predict", str(head), *filled]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_a_model_of_audio_refuses_text_alone(made: Path, tmp_path: Path) -> None:
    run = train(made, tmp_path / "audio", fusion="audio", epochs=1).path
    with pytest.raises(UsageError, match="the model reads only audio, but no input has any; give audio files"):
        predict(run, [], PredictOptions(text="vui", device="cpu"))


def test_text_alone_and_missing_text_are_said(head: Path, recording: Path, capsys: Captured) -> None:
    assert mervn(["predict", str(head), "--text", "hôm nay tôi vui lắm", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "(text)" in captured.out and "the input has no audio" in captured.err
    assert mervn(["predict", str(head), str(recording), "--device", "cpu"]) == 0
    assert "1 of 1 inputs have no text" in capsys.readouterr().err


def test_a_recording_of_many_segments_is_decoded_with_bounded_memory(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, wave(20.0, 1), RATE)
    monkeypatch.setattr(scoring, "BLOCK_S", 4.0)
    sizes: list[float] = []
    features = Scorer.features

    def measured(self: Scorer, clips: Any, samples: Any) -> Any:
        sizes.append(sum(map(len, samples)) / RATE)
        return features(self, clips, samples)

    monkeypatch.setattr(Scorer, "features", measured)
    found = call(head, path, window=1.0, hop=0.5, batch_seconds=2.0)
    assert len(found.predictions) == 39 and max(sizes) <= 4.0
    assert SAMPLE_RATE == RATE


def test_a_folder_without_audio_and_one_that_is_no_run_are_refused(head: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must hold audio files"):
        call(head, tmp_path / "empty")
    with pytest.raises(UsageError, match="must be the folder of a run"):
        call(tmp_path / "empty", tmp_path)
