"""Voice activity: real speech is found where it is, in memory that does not grow with the recording."""

import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import wave

from features.audio.resampling import Samples
from features.errors import UsageError
from features.progress import SILENT
from mervn.demo.espeak import SAMPLE_RATE, speak
from mervn.use import speech
from mervn.use.speech import find_speech, open_detector


class Loud:
    """A detector of another kind: loud blocks are speech."""

    def detect(self, blocks: Iterable[Samples]) -> Iterator[tuple[float, float]]:
        position = 0.0
        for block in blocks:
            if np.abs(block).max() > 0.1:
                yield position, position + len(block) / 16_000
            position += len(block) / 16_000


def test_speech_between_silence_is_found(tmp_path: Path) -> None:
    pytest.importorskip("silero_vad")
    words = speak("hôm nay trời đẹp quá tôi đi chơi với bạn bè", "vi", 50, 160, 50, 100).astype(np.float32) / 2**15
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([silence, words, silence]), SAMPLE_RATE)
    torch.set_num_threads(2)
    found = find_speech(path, "mix", open_detector(), SILENT)
    assert torch.get_num_threads() == 2  # the import of silero_vad sets one
    assert found and 1.8 < found[0][0] < 2.6
    assert 1.4 + len(words) / SAMPLE_RATE < found[-1][1] < 2.6 + len(words) / SAMPLE_RATE
    covered = sum(end - start for start, end in found)
    assert covered > 0.7 * len(words) / SAMPLE_RATE
    soundfile.write(path, np.concatenate([silence, silence]), SAMPLE_RATE)  # negative control
    assert find_speech(path, "mix", open_detector(), SILENT) == []


def test_any_detector_can_be_used_and_long_speech_is_cut_in_equal_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([np.zeros(32_000, np.float32), wave(2.0, 0), wave(0.1, 0)]), 16_000)
    monkeypatch.setattr(speech, "BLOCK_S", 2.0)
    assert find_speech(path, "mix", Loud(), SILENT) == [(2.0, 4.0)]  # the last 0.1 s are too short
    monkeypatch.setattr(speech, "MAX_SPEECH_S", 0.8)
    expected = [(2.0, 2.666667), (2.666667, 3.333333), (3.333333, 4.0)]
    assert find_speech(path, "mix", Loud(), SILENT) == expected


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(16_000 * 300, np.int16), 16_000)
    tracemalloc.start()
    find_speech(path, "mix", Loud(), SILENT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6 < 300 * 16_000 * 4


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "silero_vad", None)
    with pytest.raises(UsageError, match=r"pip install 'mervn\[vad\]'"):
        open_detector()
