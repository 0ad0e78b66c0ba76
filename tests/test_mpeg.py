"""MP3 files that do not declare their length are read whole, and never shortened without a word."""

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import audio_file
from features.audio.audio_file import AudioFile
from features.audio.mpeg import LongFile, count_frames, frame_bytes
from features.audio.segment import AudioError, inspect_segment, read_segment

ID3V1 = b"TAG" + bytes(125)
LYRICS3 = b"LYRICSBEGIN" + b"IND0000200[00:01]words" + b"000033LYRICS200"
ID3V2 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
AROUND = [(b"", b""), (ID3V2 * 2, ID3V1), (bytes(400), b"\n"), (b"\xff\xfb\0", LYRICS3 + ID3V1)]
"""Bytes before and after the frames."""


def encoded(folder: Path, rate: int, mode: str = "CONSTANT", quiet_first: bool = False) -> bytes:
    """Return an MP3 of 2 s, loud and quiet, without the first frame, which declares the length."""
    parts = [np.random.default_rng(0).uniform(-0.5, 0.5, rate).astype(np.float32), np.zeros(rate, np.float32)]
    samples = np.concatenate(parts[::-1] if quiet_first else parts)
    path = folder / "whole.mp3"
    settings = {"bitrate_mode": mode, "compression_level": 0.5}
    soundfile.write(path, samples, rate, format="MP3", subtype="MPEG_LAYER_III", **settings)
    content = path.read_bytes()
    assert count_frames(path) is None and (b"Info" in content[:200] or b"Xing" in content[:200])
    return content[frame_bytes(content[:4]) :]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(("mode", "quiet_first"), [("CONSTANT", False), ("VARIABLE", True), ("VARIABLE", False)])
@pytest.mark.parametrize(
    "around", [(b"", b""), (ID3V2 * 2, ID3V1), (bytes(400), b"\n"), (b"\xff\xfb\0", LYRICS3 + ID3V1)]
)
def test_all_samples_of_an_mp3_without_a_length_are_read(
    tmp_path: Path, rate: int, mode: str, quiet_first: bool, around: tuple[bytes, bytes]
) -> None:
    path, content = tmp_path / "a.mp3", encoded(tmp_path, rate, mode, quiet_first)
    path.write_bytes(around[0] + content + around[1])
    counted = count_frames(path)
    assert counted is not None and not counted.is_cut and counted.num_samples >= 2 * rate
    assert inspect_segment(path, 0.0, None, "mix", rate).num_samples == counted.num_samples
    found = read_segment(path, 0.0, None, "mix", rate)
    assert len(found) == counted.num_samples
    # of a file of many copies, libsndfile reads the first one whole
    expected, _ = soundfile.read(io.BytesIO(content * 40), len(found), dtype="float32")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read_segment(path, 1.0, 1.5, "mix", rate), found[rate : rate * 3 // 2])


def test_libsndfile_alone_reads_a_part_of_a_variable_bit_rate(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(encoded(tmp_path, 44_100, "VARIABLE"))
    assert len(soundfile.read(tmp_path / "a.mp3")[0]) < 44_100  # of 2 s
    with AudioFile(tmp_path / "a.mp3") as file:
        assert file.frames >= 88_200 and file.header.frames == file.frames
        assert sum(map(len, file.blocks_of(file.frames, 0.3))) == file.frames
    assert file.closed


@pytest.mark.parametrize("change", ["flags", "number", "vbri"])
def test_a_first_frame_that_declares_no_number_is_no_length(tmp_path: Path, change: str) -> None:
    content = encoded(tmp_path, 16_000, "VARIABLE")
    path = tmp_path / "whole.mp3"
    whole = path.read_bytes()
    place = next(whole.index(name) for name in (b"Info", b"Xing") if name in whole[:200])
    if change == "flags":
        whole = whole[: place + 4] + bytes(4) + whole[place + 8 :]
    elif change == "number":
        whole = whole[: place + 8] + bytes(4) + whole[place + 12 :]
    else:
        length = frame_bytes(whole[:4])
        whole = (whole[:4] + bytes(32) + b"VBRI").ljust(length, b"\0") + whole[length:]
    path.write_bytes(whole)
    counted = count_frames(path)
    assert counted is not None
    (tmp_path / "a.mp3").write_bytes(content)
    expected = read_segment(tmp_path / "a.mp3", 0.0, None, "mix")
    np.testing.assert_array_equal(read_segment(path, 0.0, None, "mix"), expected)


def test_an_mp3_without_a_length_that_was_cut_within_a_frame_is_truncated(tmp_path: Path) -> None:
    path, content = tmp_path / "a.mp3", encoded(tmp_path, 16_000)
    for size in (len(content) - 1, len(content) - 100, len(content) // 2 + 4):
        path.write_bytes(content[:size])
        with pytest.raises(AudioError, match="the last frame is incomplete") as caught:
            inspect_segment(path, 0.0, None, "mix")
        assert caught.value.reason == "truncated"
    length = frame_bytes(content[:4])
    path.write_bytes(content[: 40 * length])  # at a frame, as a recorder ends
    assert len(read_segment(path, 0.0, None, "mix")) == 40 * 576


def test_other_bytes_have_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    for other in (b"", b"\xff", bytes(5000), b"no mp3 at all", ID3V2, b"\xff\xfb\x90\0" * 500):
        path.write_bytes(other)
        assert count_frames(path) is None
    soundfile.write(path, wave(0.5, 0), 16_000, format="WAV")
    assert count_frames(path) is None


@pytest.mark.parametrize("before", [b"", ID3V2, ID3V2 * 2, b"junk before the frames", b"APETAGEX" + bytes(24)])
def test_a_declared_length_counts_wherever_its_frame_stands(tmp_path: Path, before: bytes) -> None:
    encoded(tmp_path, 16_000, "VARIABLE")
    whole = tmp_path / "whole.mp3"
    expected = read_segment(whole, 0.0, None, "mix")
    assert len(expected) == 32_000  # without the delay and the padding of the encoder
    content = whole.read_bytes()
    whole.write_bytes(before + content)
    assert count_frames(whole) is None
    if before != b"junk before the frames":  # which libsndfile does not open
        np.testing.assert_array_equal(read_segment(whole, 0.0, None, "mix"), expected)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_fault_of_the_disk_and_ctrl_c_are_no_end_of_the_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(tmp_path, 44_100, "VARIABLE"))
    reads = []

    class Failing(LongFile):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            read = self._file.read

            def failing(count: int) -> bytes:
                reads.append(count)
                if len(reads) > 20:
                    raise error
                return read(count)

            self._file = SimpleNamespace(seek=self._file.seek, read=failing, close=self._file.close)  # type: ignore[assignment]

    monkeypatch.setattr(audio_file, "LongFile", Failing)
    with pytest.raises(AudioError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        read_segment(path, 0.0, None, "mix")
    assert getattr(caught.value, "reason", "system_error") == "system_error"


def test_a_file_that_was_replaced_is_counted_again(tmp_path: Path) -> None:
    path, content = tmp_path / "a.mp3", encoded(tmp_path, 16_000)
    path.write_bytes(content)
    status, counted = path.stat(), count_frames(path)
    path.write_bytes(bytes(len(content) // 2) + content[: len(content) - len(content) // 2])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and count_frames(path) != counted
