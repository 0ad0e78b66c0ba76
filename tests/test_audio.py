"""Segments: the right samples of every format, or a reason why not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wave

from features.audio import AudioError, decode_segment, inspect_segment, read_segment, resample, resampled_length
from features.torchaudio_import import import_torchaudio

FORMATS = [
    ("wav", "PCM_16", 16_000),
    ("wav", "PCM_24", 44_100),
    ("wav", "FLOAT", 48_000),
    ("wav", "ULAW", 8_000),
    ("wav", "ALAW", 8_000),
    ("flac", "PCM_16", 22_050),
    ("ogg", "VORBIS", 44_100),
    ("mp3", "MPEG_LAYER_III", 44_100),
]


@pytest.mark.parametrize(("ending", "subtype", "rate"), FORMATS)
def test_a_segment_equals_a_slice_of_the_whole_file(tmp_path: Path, ending: str, subtype: str, rate: int) -> None:
    path = tmp_path / f"a.{ending}"
    stereo = np.stack([wave(2.0, 0, rate), wave(2.0, 1, rate, 330.0)], axis=1)
    soundfile.write(path, stereo, rate, subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    first, last = round(0.7123 * rate), round(1.3456 * rate)
    for channel, expected in ((0, whole[:, 0]), (1, whole[:, 1]), ("mix", whole.mean(1))):
        found, found_rate = decode_segment(path, 0.7123, 1.3456, channel)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected[first:last])
        assert found_rate == rate and found.dtype == np.float32
        assert np.abs(found).max() <= 1.0
    info = inspect_segment(path, 0.7123, 1.3456, "mix")
    assert info.num_samples == len(read_segment(path, 0.7123, 1.3456, "mix")) == -(-(last - first) * 16_000 // rate)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3000), st.sampled_from([8_000, 11_025, 12_345, 22_050, 44_100, 48_000, 16_000]))
def test_resampling_gives_the_closed_form_length(length: int, rate: int) -> None:
    found = resample(np.zeros(length, np.float32), rate, 16_000)
    assert len(found) == resampled_length(length, rate, 16_000) == -(-length * 16_000 // rate)


def test_resampling_keeps_a_tone() -> None:
    found = resample(wave(1.0, 0, 44_100, 440.0), 44_100, 16_000)
    spectrum = np.abs(np.fft.rfft(found))
    assert spectrum.argmax() == 440
    np.testing.assert_array_equal(found, resample(wave(1.0, 0, 44_100, 440.0), 44_100, 16_000))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_kept_kernel_gives_what_torchaudio_gives(rate: int) -> None:
    torchaudio, _ = import_torchaudio()
    samples = wave(0.7, 0, rate, 440.0)
    wanted = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16_000).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(resample(samples, rate, 16_000), wanted)


def reason(path: Path, start: float = 0.0, end: float | None = None, channel: int | str = "mix") -> str:
    reasons = set()
    for function in (read_segment, inspect_segment) if path.suffix != ".full" else (read_segment,):
        with pytest.raises(AudioError, match=path.name) as caught:
            function(path, start, end, channel)  # type: ignore[operator]
        reasons.add(caught.value.reason)
    (found,) = reasons
    return str(found)


def test_times_past_the_file_and_empty_segments_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(1.0, 0), 16_000)
    assert reason(path, 0.0, 1.06) == "end_past_file"
    assert reason(path, 0.0, 1e300) == "end_past_file"
    assert reason(path, 1.5) == "no_samples"
    assert reason(path, 1e300) == "no_samples"
    assert reason(path, 0.5, 0.50001) == "no_samples"
    assert reason(path, channel=1) == "no_channel"
    clipped = inspect_segment(path, 0.5, 1.05, "mix")
    assert clipped.end_clipped and clipped.num_samples == 8000
    assert len(read_segment(path, 0.5, 1.05, "mix")) == 8000
    assert not inspect_segment(path, 0.5, 1.0, "mix").end_clipped
    assert len(read_segment(path, 0.5, 0.5 + 1 / 16_000, "mix")) == 1


def test_files_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    for name, content in (("empty.wav", b""), ("text.wav", b"not audio"), ("cut.flac", b"fLaC")):
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name) == "unreadable"
    (tmp_path / "folder.wav").mkdir()
    assert reason(tmp_path / "folder.wav") == "not_found"
    assert reason(tmp_path / "nowhere.wav") == "not_found"
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    assert reason(tmp_path / "none.wav") == "no_samples"


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3", "wav"])
def test_a_cut_file_is_never_a_shorter_segment_in_silence(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, wave(3.0, 0), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=path.name):
        read_segment(path, 0.0, 3.0, "mix")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused_where_they_are_used(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "a.wav"
    samples = wave(1.0, 0)
    samples[12_000] = bad
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=f"found {bad} at 12000") as caught:
        read_segment(path, 0.5, 1.0, "mix")
    assert caught.value.reason == "non_finite"
    assert len(read_segment(path, 0.0, 0.5, "mix")) == 8000
