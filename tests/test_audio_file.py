"""AudioFile: blocks have the samples of one read, and a file that ends early has fewer of them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import audio_file
from features.audio.audio_file import AudioFile, mix_channels


@pytest.mark.parametrize(
    ("ending", "options"), [("mp3", {}), ("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"})]
)
def test_blocks_have_the_samples_of_one_read(
    tmp_path: Path, ending: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_file, "BLOCK_S", 0.1)
    path = tmp_path / f"a.{ending}"
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(path, wave(1.0, 0) + noise, 16_000, **options)
    with soundfile.SoundFile(path) as file:
        whole = file.read(file.frames, dtype="float32", always_2d=True)
    with AudioFile(path) as file:
        blocks = list(file.blocks_of(file.frames))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert [len(block) for block in blocks] == [1600] * 10
    if ending == "mp3":  # negative control: a seek after each block changes samples
        with soundfile.SoundFile(path) as file:
            seeking = np.concatenate(list(file.blocks(1600, dtype="float32", always_2d=True)))
        assert not np.array_equal(seeking, whole)


def test_a_file_that_ends_early_has_fewer_samples_and_none_of_another_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoundFile.blocks yields the samples of the last block again."""
    monkeypatch.setattr(audio_file, "BLOCK_S", 0.1)
    path = tmp_path / "a.ogg"
    soundfile.write(path, wave(2.0, 0), 16_000)
    path.write_bytes(path.read_bytes()[:-3000])
    with AudioFile(path) as file:
        found = np.concatenate(list(file.blocks_of(32_000)))
    with soundfile.SoundFile(path) as file:
        expected = file.read(32_000, dtype="float32", always_2d=True)
    assert 0 < len(expected) < 32_000
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 12])
def test_mixed_channels_have_the_bits_of_the_mean(channels: int) -> None:
    generator = np.random.default_rng(channels)
    bits = generator.integers(0, 2**32, (20_000, channels), np.uint32).view(np.float32)
    small = generator.choice(np.array([0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0], np.float32), (20_000, channels))
    with np.errstate(all="ignore"):
        for frames in (bits, small):
            expected, found = frames.mean(axis=1, dtype=np.float32), mix_channels(frames)
            number = ~np.isnan(expected)
            assert np.array_equal(found[number].view(np.uint32), expected[number].view(np.uint32))
            assert np.isnan(found[~number]).all() and number.any()
