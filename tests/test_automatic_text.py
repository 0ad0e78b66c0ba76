"""Text of speech recognition: inputs without text get it, it is kept with the results, and scored like any text."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from test_train_head import made, train
from tiny import wave
from tiny_extraction import spoil

from cli.main import run as mervn
from features.errors import UsageError
from mervn.use import scoring
from mervn.use.clip_reader import ClipReader
from mervn.use.clips import Clip
from mervn.use.predict import predict
from mervn.use.predict_options import PredictOptions
from mervn.use.scoring import Scorer

__all__ = ["made"]  # fixture
HEARD = "hôm nay tôi vui lắm"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace speech recognition; return the number of samples of all that was transcribed."""
    lengths: list[int] = []

    def transcribe(items: Sequence[Any], model: Any) -> list[str]:
        lengths.extend(map(len, items))
        return [HEARD] * len(items)

    def load(model: str, device: str, option: str) -> Any:
        assert option == "--transcribe"  # messages name it
        return SimpleNamespace(identity=lambda: {"model": model})

    monkeypatch.setattr("mervn.transcription.transcribe.load_recognizer", load)
    monkeypatch.setattr("mervn.transcription.transcribe.transcribe", transcribe)
    return lengths


def test_only_inputs_without_text_are_transcribed_and_only_once(made: Path, tmp_path: Path, heard: list[int]) -> None:
    run = train(made, made.parent / "transcribed").path
    soundfile.write(tmp_path / "a.wav", wave(1.0, 0), 16_000)
    (tmp_path / "s.csv").write_text("file,start,end,text\na.wav,0,0.5,tôi buồn\na.wav,0.5,1,\n", "utf-8")
    output = tmp_path / "out.json"
    options = ["--segments", str(tmp_path / "s.csv"), "--output", str(output), "--device", "cpu"]
    arguments = ["predict", str(run), *options, "--transcribe", "whisper=a"]
    assert mervn(arguments) == 0 and heard == [8000]
    first, second = json.loads(output.read_text("utf-8"))
    assert (first["text"], second["text"]) == ("tôi buồn", HEARD)
    assert mervn(arguments) == 0 and heard == [8000]  # the text is kept with the results
    assert json.loads(output.read_text("utf-8")) == [first, second]
    assert mervn([*arguments[:-1], "whisper=b"]) == 2
    (tmp_path / "s.csv").write_text(f"file,start,end,text\na.wav,0.5,1,{HEARD}\n", "utf-8")
    (expected,) = predict(run, [], PredictOptions(segments=tmp_path / "s.csv", device="cpu")).predictions
    by_label = {one["label"]: one["score"] for one in second["scores"]}
    assert expected.probabilities == pytest.approx([by_label["happy"], by_label["sad"]], abs=1e-6)
    (without,) = predict(run, [tmp_path / "a.wav"], PredictOptions(device="cpu")).predictions  # negative control
    assert np.abs(np.subtract(without.probabilities, expected.probabilities)).max() > 1e-4  # type: ignore[arg-type]


def test_a_model_of_text_hears_and_a_model_of_audio_refuses(made: Path, tmp_path: Path, heard: list[int]) -> None:
    soundfile.write(tmp_path / "a.wav", wave(1.0, 0), 16_000)
    text = train(made, made.parent / "heard", fusion="text").path
    options = PredictOptions(transcribe="whisper=a", window=0.5, device="cpu")
    found = predict(text, [tmp_path / "a.wav"], options)
    assert [one.clip.text for one in found.predictions] == [HEARD] * 2 and heard == [8000, 8000]
    spoil(tmp_path, "a")  # a text model, which reads no audio, has no prediction for audio that nobody could hear
    (found,) = predict(text, [tmp_path / "a.wav"], PredictOptions(transcribe="whisper=a", device="cpu")).predictions
    assert found.probabilities is None and found.fault is not None and found.fault.reason == "non_finite"
    audio = train(made, made.parent / "deaf", fusion="audio").path
    with pytest.raises(UsageError, match="reads no text; leave it out"):
        predict(audio, [tmp_path / "a.wav"], options)
    soundfile.write(tmp_path / "a.wav", wave(1.0, 0), 16_000)
    count = len(heard)
    in_toml = predict(audio, [tmp_path / "a.wav"], options.with_general(["transcribe"]))  # ignored in mervn.toml
    assert len(in_toml.predictions) == 2 and not in_toml.failed and len(heard) == count


@pytest.mark.parametrize("fusion", ["text", "xattn"])
def test_each_clip_is_read_once_and_ahead_of_the_model(
    made: Path, tmp_path: Path, heard: list[int], monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    run = train(made, made.parent / f"ahead-{fusion}", fusion=fusion).path
    monkeypatch.setattr(scoring, "BLOCK_S", 1.0)
    (tmp_path / "audio").mkdir()
    for i in range(6):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", wave(0.5 + 0.01 * i, i), 16_000)
    spoil(tmp_path / "audio", "3")
    lines = [f"audio/{i}.wav,0,{0.5 + 0.01 * i},{'tôi buồn' if i == 1 else ''}" for i in range(6)]
    (tmp_path / "s.csv").write_text("\n".join(["file,start,end,text", *lines]), "utf-8")
    read: list[str] = []
    samples, score = ClipReader._samples, Scorer.score
    read_before: list[int] = []

    def counted(self: ClipReader, clip: Clip) -> Any:
        read.append(clip.file)
        return samples(self, clip)

    def slow(self: Scorer, *arguments: Any) -> Any:
        time.sleep(0.5)  # the thread reads the next block meanwhile
        read_before.append(len(read))
        return score(self, *arguments)

    monkeypatch.setattr(ClipReader, "_samples", counted)
    monkeypatch.setattr(Scorer, "score", slow)
    found = {}
    for workers in (0, 2):
        read.clear(), heard.clear(), read_before.clear()
        options = PredictOptions(
            segments=tmp_path / "s.csv", transcribe="whisper=a", device="cpu", workers=workers, batch_seconds=0.5
        )
        predictions = predict(run, [], options).predictions
        found[workers] = [(one.clip.text, one.fault is None, one.probabilities) for one in predictions]
        ends = [sum(i != 1 or fusion != "text" for i in range(end)) for end in range(8)]  # text has no use for 1.wav
        assert len(set(read)) == len(read) == ends[6]
        assert sorted(heard) == [round(16_000 * (0.5 + 0.01 * i)) for i in (0, 2, 4, 5)]
        is_ahead = [count >= min(ends[6], ends[block + 2]) for block, count in enumerate(read_before)]
        assert is_ahead == [True] * 6 if workers else False in is_ahead
    expected = [(HEARD, True), ("tôi buồn", True), (HEARD, True), ("", False), (HEARD, True), (HEARD, True)]
    assert [one[:2] for one in found[0]] == [one[:2] for one in found[2]] == expected
    for (*_, first), (*_, second) in zip(found[0], found[2], strict=True):
        assert np.array_equal(first, second) if first is not None else second is None
