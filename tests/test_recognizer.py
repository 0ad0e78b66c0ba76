"""EmotionRecognizer: one input, lists, arrays and files give the same numbers; invalid input gives one clear error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_train_head import made, train
from tiny import wave

from features.audio.segment import AudioError
from features.errors import InputError, UsageError
from mervn.use import scoring
from mervn.use.clips import Clip
from mervn.use.recognizer import EmotionRecognizer, load

__all__ = ["made"]  # fixture
TEXT = "hôm nay tôi vui lắm"


@pytest.fixture(scope="module")
def head(made: Path) -> Path:
    return train(made, made.parent / "head").path


@pytest.fixture(scope="module")
def recognizer(head: Path) -> EmotionRecognizer:
    return load(head, device="cpu")


@pytest.mark.parametrize(("rate", "dtype"), [(16_000, "float32"), (44_100, "float64"), (8_000, "int16")])
def test_arrays_equal_files(recognizer: EmotionRecognizer, tmp_path: Path, rate: int, dtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(1.0, 0, rate), rate)
    samples, _ = soundfile.read(path, dtype=dtype)
    of_file, of_array = recognizer(path, TEXT), recognizer(samples, TEXT, sample_rate=rate)
    assert of_file == of_array
    other = recognizer(wave(1.0, 0, rate, 400.0), TEXT, sample_rate=rate)  # negative control
    assert other != of_file


def test_a_list_gives_the_numbers_of_each_input_alone(
    recognizer: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [wave(0.2 + 0.3 * i, i) for i in range(6)]
    texts = [None if i == 2 else TEXT + " ạ" * i for i in range(6)]
    batch = recognizer(waves, texts, sample_rate=16_000)
    assert len(batch) == 6 and recognizer.labels == ("happy", "sad")
    for scores, audio, text in zip(batch, waves, texts, strict=True):
        (alone,) = recognizer([audio], [text], sample_rate=16_000)
        assert [one["label"] for one in scores] == [one["label"] for one in alone]  # type: ignore[index,union-attr]
        assert [one["score"] for one in scores] == pytest.approx([one["score"] for one in alone], abs=1e-6)  # type: ignore[index,union-attr]
    both, alone = recognizer(text=[TEXT, TEXT]), recognizer(text=TEXT)
    assert both[0] == both[1] and both[0][0]["score"] == pytest.approx(alone[0]["score"], abs=1e-6)  # type: ignore[index,call-overload]
    assert len(recognizer(waves[0], TEXT, sample_rate=16_000, top_k=1)) == 1
    monkeypatch.setattr(scoring, "MAX_BLOCK", 2)
    blocks = recognizer.probabilities([Clip(one, text=text) for one, text in zip(waves, texts, strict=True)])
    first = {one["label"]: one["score"] for one in batch[5]}  # type: ignore[index,union-attr,call-overload]
    assert blocks[5] == pytest.approx([first["happy"], first["sad"]], abs=1e-6)


INVALID: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, UsageError, "reads text and audio, but the input has none of it"),
    ({"audio": np.zeros(10, np.float32)}, UsageError, "sample_rate must be given"),
    ({"audio": np.zeros((2, 10), np.float32), "sample_rate": 16_000}, UsageError, r"\(S,\).*found shape \(2, 10\)"),
    ({"audio": np.zeros(0, np.float32), "sample_rate": 16_000}, UsageError, r"found shape \(0,\)"),
    ({"audio": np.full(10, np.nan), "sample_rate": 16_000}, AudioError, "samples must be finite, found nan at 0"),
    ({"audio": np.zeros(10, np.uint8), "sample_rate": 16_000}, UsageError, "found uint8"),
    ({"audio": np.zeros(10, np.float32), "sample_rate": 5}, UsageError, "1000..768000 Hz, found 5"),
    ({"audio": np.zeros(10, np.float32), "sample_rate": 16_000.5}, UsageError, "a whole number in .*found 16000.5"),
    ({"audio": np.zeros(10, np.float32), "sample_rate": "16000"}, UsageError, "a whole number in .*found '16000'"),
    ({"audio": np.full(10, 300.0), "sample_rate": 16_000}, UsageError, r"in \[-1, 1\], found a peak of 300; divide"),
    ({"audio": np.full(10, 1e300), "sample_rate": 16_000}, AudioError, "samples must be finite, found inf at 0"),
    ({"text": "vui \udcff"}, UsageError, r"valid Unicode, found a lone surrogate '.udcff'"),
    ({"audio": torch.zeros(10, requires_grad=True), "sample_rate": 16_000}, UsageError, "that NumPy can read"),
    ({"audio": 3.5}, UsageError, "audio must be a path, an array or None, found float"),
    ({"audio": "nowhere.wav"}, InputError, "nowhere.wav must be an audio file"),
    ({"audio": "nowhere.wav", "sample_rate": 8000}, UsageError, "sample_rate is for arrays, found 8000"),
    ({"text": 5}, UsageError, "text must be a str or None, found int"),
    ({"audio": ["a.wav"], "text": "vui"}, UsageError, "must both be lists"),
    ({"audio": ["a.wav"], "text": ["vui", "vui"]}, UsageError, "equal lengths, found 1 and 2"),
    ({"text": "vui", "top_k": 0}, UsageError, "top_k must be at least 1"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), INVALID)
def test_invalid_input_is_refused(
    recognizer: EmotionRecognizer, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        recognizer(**arguments)


def test_a_model_of_one_modality_says_what_it_reads(made: Path) -> None:
    run = train(made, made.parent / "text", fusion="text").path
    recognizer = load(run, device="cpu")
    assert recognizer.needs_text and not recognizer.needs_audio
    with pytest.raises(UsageError, match="reads text, but the input has none of it"):
        recognizer("a.wav")
    assert recognizer("does-not-matter.wav", TEXT) == recognizer(text=TEXT)
