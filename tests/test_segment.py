"""Audio segments: the exact samples of every format, or an AudioError with a reason."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wave

from features.audio.resampling import resample, resampled_length
from features.audio.segment import AudioError, decode_segment, inspect_segment, read_segment
from features.errors import InputError

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
    assert not inspect_segment(path, 0.5, 1.0 + 0.7 / 16_000, "mix").end_clipped  # rounding, not clipping
    assert inspect_segment(path, 0.5, 1.0 + 1 / 16_000, "mix").end_clipped
    assert len(read_segment(path, 0.5, 0.5 + 1 / 16_000, "mix")) == 1


def test_files_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    for name, content in (("empty.wav", b""), ("text.wav", b"not audio"), ("cut.flac", b"fLaC")):
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name) == "unreadable"
    (tmp_path / "folder.wav").mkdir()
    assert reason(tmp_path / "folder.wav") == "not_found"
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe.wav must be an audio file, but it is a folder, a pipe or a device"):
        inspect_segment(tmp_path / "pipe.wav", 0.0, None, "mix")
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


CONTAINERS = [
    ("wav", "WAV", "PCM_16"), ("wav", "WAVEX", "PCM_24"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "GSM610"), ("wav", "WAV", "G721_32"), ("wav", "WAV", "IMA_ADPCM"), ("rf64", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"), ("aiff", "AIFF", "PCM_16"), ("au", "AU", "PCM_16"), ("caf", "CAF", "PCM_16"),
    ("sph", "NIST", "PCM_16"), ("flac", "FLAC", "PCM_16"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "container", "subtype"), CONTAINERS)
def test_a_truncated_file_of_any_container_is_no_shorter_utterance(
    tmp_path: Path, ending: str, container: str, subtype: str
) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, wave(3.0, 0, 8_000), 8_000, format=container, subtype=subtype)
    whole = read_segment(path, 0.0, None, "mix")
    assert len(whole) >= 48_000
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 1000, len(content) - 400):
        path.write_bytes(content[:size])
        with pytest.raises(AudioError, match=path.name) as caught:
            read_segment(path, 0.0, None, "mix")
        assert caught.value.reason in {"truncated", "unreadable"}
    path.write_bytes(content + b"\x7f" * 33)
    np.testing.assert_array_equal(read_segment(path, 0.0, None, "mix"), whole)


@pytest.mark.parametrize(
    ("container", "subtype", "channels"),
    [("W64", "PCM_24", 2), ("W64", "FLOAT", 1), ("W64", "GSM610", 1), ("NIST", "PCM_16", 2), ("NIST", "ULAW", 1),
     ("WAV", "GSM610", 1)],
)  # fmt: skip
def test_bytes_after_the_audio_are_no_samples(tmp_path: Path, container: str, subtype: str, channels: int) -> None:
    """Regression test: libsndfile decodes them in W64 and NIST SPHERE, and the padding of an odd GSM file."""
    path, count = tmp_path / "a", 75 * 320  # an odd number of blocks of an odd number of bytes
    samples = np.stack([wave(count / 8_000, channel, 8_000) for channel in range(channels)], axis=1)
    soundfile.write(path, samples, 8_000, format=container, subtype=subtype)
    whole, rate = decode_segment(path, 0.0, None, "mix")
    assert len(whole) == count and rate == 8_000
    path.write_bytes(path.read_bytes() + b"junk\xf3\xac\xd3\x11\x8c\xd1\x00\xc0" * 40)
    np.testing.assert_array_equal(decode_segment(path, 0.0, None, "mix")[0], whole)
    assert inspect_segment(path, 2.0, 3.04, "mix").end_clipped  # 40 ms past the end, not in the junk
    assert reason(path, 2.0, 3.06) == "end_past_file"
    if (container, subtype) != ("W64", "GSM610"):  # negative control
        assert soundfile.info(path).frames > count


def test_a_segment_before_the_cut_of_a_truncated_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(3.0, 0), 16_000)
    whole = read_segment(path, 0.5, 1.0, "mix")
    path.write_bytes(path.read_bytes()[:64_000])
    np.testing.assert_array_equal(read_segment(path, 0.5, 1.0, "mix"), whole)
    assert reason(path) == reason(path, 0.0, 2.01) == reason(path, 0.0, 3.0) == "truncated"


def declare(path: Path, size: int) -> None:
    """Write a WAV of one second whose header declares another number of bytes of audio."""
    soundfile.write(path, wave(1.0, 0), 16_000)
    content = bytearray(path.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x80000000, 0x7FFFFFFF, 0x7FFFF000 - 36, 0])
def test_a_streamed_wav_is_read_if_it_says_so(tmp_path: Path, size: int) -> None:
    """sox writes 0x7FFFF000 - 36 into a pipe, and its files were rejected as truncated."""
    path = tmp_path / "a.wav"
    declare(path, size)
    if size:
        assert len(read_segment(path, 0.0, None, "mix")) == 16_000
    else:
        assert reason(path) == "no_samples"


@pytest.mark.parametrize("size", [32_002, 0x7FFFF000 - 65])
def test_a_wav_that_lacks_what_a_file_can_hold_is_truncated(tmp_path: Path, size: int) -> None:
    declare(tmp_path / "a.wav", size)
    assert reason(tmp_path / "a.wav") == "truncated"


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "MS_ADPCM", "IMA_ADPCM"])
def test_call_centre_encodings_are_read(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(2.0, 0, 8_000), 8_000, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        whole = file.read(file.frames, dtype="float32")
    np.testing.assert_array_equal(decode_segment(path, 0.0, None, "mix")[0], whole)
    np.testing.assert_array_equal(decode_segment(path, 0.7, 1.3, "mix")[0], whole[5600:10_400])


def flac_with_total(path: Path, total: int) -> Path:
    """Write a FLAC file of 16 000 samples whose header says `total`."""
    soundfile.write(path, wave(1.0, 0), 16_000)
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("total", [0, 16_001, 32_000, 2**36 - 1])
def test_a_flac_header_that_lies_is_rejected_before_anything_is_planned(tmp_path: Path, total: int) -> None:
    path = flac_with_total(tmp_path / "a.flac", total)
    assert reason(path) == ("truncated" if total else "unknown_length")


def test_the_samples_that_were_decoded_are_counted_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If decoding ended before the segment, the message counted up to the segment's start."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, wave(1.0, 0), 16_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: np.zeros((500, 1), np.float32))
    with pytest.raises(AudioError, match="must have the 12000 samples its header says, found 500") as caught:
        decode_segment(path, 0.5, 0.75, "mix")
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_no_audio_has_is_rejected(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(1.0, 0), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    assert reason(path) == "sample_rate"


def test_a_container_whose_truncation_cannot_be_told_is_rejected(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.voc", wave(1.0, 0), 16_000)
    assert reason(tmp_path / "a.voc") == "format"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ENFILE, None])
def test_what_the_system_refuses_says_nothing_about_a_file(
    tmp_path: Path, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile calls all of it a system error, and so one good file after another was unreadable."""
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(1.0, 0), 16_000)

    def fail(*_: object, **__: object) -> None:
        raise soundfile.LibsndfileError(2, "Error opening: ")

    def refuse(*_: object, **__: object) -> Any:
        assert number is not None
        raise OSError(number, "refused")

    monkeypatch.setattr(soundfile.SoundFile, "__init__", fail)
    if number is not None:
        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=rf"{path.name}.*(refused|System error)") as caught:
        inspect_segment(path, 0.0, None, "mix")
    if number in (errno.EMFILE, errno.ENFILE):
        assert not isinstance(caught.value, AudioError) and "too many files are open" in str(caught.value)
    else:
        assert isinstance(caught.value, AudioError) and caught.value.reason == "system_error"


def test_a_fault_of_the_disk_at_the_end_of_a_flac_file_is_no_truncation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, wave(1.0, 0), 16_000)

    def fail(*_: object, **__: object) -> None:
        raise soundfile.LibsndfileError(2, "")

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    assert reason(path) == "system_error"


@pytest.mark.parametrize("error", [MemoryError("full"), ValueError("odd"), RuntimeError("broken"), OSError("gone")])
def test_whatever_decoding_raises_rejects_the_file(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(1.0, 0), 16_000)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    with pytest.raises(AudioError, match=f"{path.name}.*{error}") as caught:
        read_segment(path, 0.0, None, "mix")
    assert caught.value.reason == ("out_of_memory" if isinstance(error, MemoryError) else "unreadable")
