"""MP3 files that do not declare their length: read whole, or rejected, and never shortened without a word."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio.mpeg import count_frames, frame_bytes
from features.audio.segment import AudioError, inspect_segment, read_segment

ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)


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
@pytest.mark.parametrize(("mode", "quiet_first"), [("CONSTANT", False), ("VARIABLE", True)])
@pytest.mark.parametrize("tags", [(b"", b""), (ID3V2, ID3V1)])
def test_all_samples_of_an_mp3_without_a_length_are_read(
    tmp_path: Path, rate: int, mode: str, quiet_first: bool, tags: tuple[bytes, bytes]
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(tags[0] + encoded(tmp_path, rate, mode, quiet_first) + tags[1])
    expected, _ = soundfile.read(path, dtype="float32")  # here libsndfile guesses too many, and reads all there are
    counted = count_frames(path)
    assert counted is not None and not counted.is_cut and len(expected) == counted.num_samples >= 2 * rate
    assert inspect_segment(path, 0.0, None, "mix", rate).num_samples == len(expected)
    np.testing.assert_array_equal(read_segment(path, 0.0, None, "mix", rate), expected)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_of_which_libsndfile_would_leave_out_a_part_is_rejected(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(tmp_path, rate, "VARIABLE"))
    assert soundfile.info(path).frames < 1.5 * rate  # of 2 s
    for function in (inspect_segment, read_segment):
        with pytest.raises(AudioError, match="found none, and .* samples where the first frame lets expect") as caught:
            function(path, 0.0, None, "mix")
        assert caught.value.reason == "unknown_length"
    assert len(read_segment(path, 0.0, 0.2, "mix", rate)) == rate // 5  # the end does not matter


def test_an_mp3_without_a_length_that_was_cut_within_a_frame_is_truncated(tmp_path: Path) -> None:
    path, content = tmp_path / "a.mp3", encoded(tmp_path, 16_000)
    for size in (len(content) - 1, len(content) - 100, len(content) // 2 + 3):
        path.write_bytes(content[:size])
        with pytest.raises(AudioError, match="the last frame is incomplete") as caught:
            inspect_segment(path, 0.0, None, "mix")
        assert caught.value.reason == "truncated"
    length = frame_bytes(content[:4])
    path.write_bytes(content[: 40 * length])  # at a frame, as a recorder ends
    assert len(read_segment(path, 0.0, None, "mix")) == 40 * 576


def test_bytes_between_frames_leave_the_length_unknown(tmp_path: Path) -> None:
    path, content = tmp_path / "a.mp3", encoded(tmp_path, 16_000)
    length = frame_bytes(content[:4])
    path.write_bytes(content[: 10 * length] + b"x" * 50 + content[10 * length :])
    assert count_frames(path) is None
    for other in (b"", b"\xff", bytes(5000), b"no mp3 at all", ID3V2):
        path.write_bytes(other)
        assert count_frames(path) is None
    soundfile.write(path, wave(0.5, 0), 16_000, format="WAV")
    assert count_frames(path) is None
