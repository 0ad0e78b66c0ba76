"""SegmentReader: equal to decoding each segment alone, and a compressed file is decoded once."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import audio_file, segment_reader
from features.audio.segment import AudioError, read_segment
from features.audio.segment_reader import SegmentReader

SPANS = [(0.0, 1.0), (0.5, 1.5), (0.5, 0.7), (2.0, 2.5), (2.1, None), (0.2, 0.4), (1.0, 2.9)]


@pytest.mark.parametrize("ending", ["wav", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_segments_equal_those_that_are_decoded_alone(
    tmp_path: Path, ending: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoundFile.read seeks after each block, so an MP3 of more than one block had other samples."""
    monkeypatch.setattr(audio_file, "BLOCK_S", 0.3)
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.stack([wave(3.0, 0, rate), wave(3.0, 1, rate)], axis=1), rate)
    reader = SegmentReader()
    for start, end in SPANS:
        for channel in ("mix", 1):
            found = reader.read(path, start, end, channel)  # type: ignore[arg-type]
            assert np.array_equal(found, read_segment(path, start, end, channel))  # type: ignore[arg-type]
    other = reader.read(path, 0.5, 1.5, 0)  # negative control
    assert not np.array_equal(other, read_segment(path, 0.5, 1.5, 1))


def test_a_compressed_file_is_decoded_once_and_kept_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, wave(20.0, 0), 16_000)
    monkeypatch.setattr(audio_file, "BLOCK_S", 1.0)
    decode, blocks, refs, in_memory = segment_reader.decode_blocks, [], [], []

    def counting(path: Path):  # type: ignore[no-untyped-def]
        for block in decode(path):
            blocks.append(len(block))
            refs.append(weakref.ref(block))
            in_memory.append(sum(ref() is not None for ref in refs))
            yield block

    monkeypatch.setattr(segment_reader, "decode_blocks", counting)
    reader = SegmentReader()
    for start in range(10, 18):
        assert len(reader.read(path, float(start), start + 2.0, "mix")) == 32_000
        assert len(reader._frames) <= 3 * 16_000 + 2_000
    assert sum(blocks) <= 20.1 * 16_000
    assert max(in_memory) <= 5  # the blocks before the first segment were kept as empty views


def test_an_error_within_a_file_does_not_shift_later_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, wave(3.0, 0), 16_000)
    reader = SegmentReader()
    reader.read(path, 0.5, 1.0, "mix")
    with pytest.raises(AudioError, match="channel must be less than 1"):
        reader.read(path, 1.0, 1.5, 3)
    with pytest.raises(AudioError, match="end must be at most"):
        reader.read(path, 1.0, 9.0, "mix")
    assert np.array_equal(reader.read(path, 1.2, 1.6, "mix"), read_segment(path, 1.2, 1.6, "mix"))
