"""DecodedCopies: the samples of a decoder that starts at the beginning, decoded once, by any thread or process."""

import os
import random
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import audio_file, decoded_copies, segment
from features.audio.audio_file import AudioFile
from features.audio.decoded_copies import DecodedCopies
from features.audio.segment import AudioError, decode_segment

SECONDS = 2.0
SPANS = [(0.0, 0.1), (0.001, 0.3), (0.7123, 1.3456), (1.0, 1.01), (1.9, None), (1.5, 2.04), (0.0, None), (1.2, 1.9)]
"""The very beginning and the end, an end past the file that is clipped, a whole file."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Copy short and new files too; return the files that are decoded for a copy."""
    found: list[Path] = []
    decode = decoded_copies._decode

    def counting(path: Path, *rest: Any) -> bool:
        found.append(path)
        return decode(path, *rest)

    for name, value in (("LONG_S", 0.5), ("SETTLED_S", -1.0), ("POLL_S", 0.001), ("_decode", counting)):
        monkeypatch.setattr(decoded_copies, name, value)
    monkeypatch.setattr(audio_file, "BLOCK_S", 0.3)
    return found


@pytest.fixture
def copies(tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodedCopies]:
    """The copies of this process, in a folder of the test."""
    with warnings.catch_warnings():
        own = DecodedCopies(tmp_path / "copies")
        monkeypatch.setattr(segment, "COPIES", own)
        yield own
        own.close()


def write(path: Path, rate: int = 16_000, channels: int = 1, **options: str) -> np.ndarray[Any, Any]:
    """Write a file of noisy tones and return the frames (S, channels) that one sequential decoder finds."""
    noise = 0.05 * np.random.default_rng(0).standard_normal((round(SECONDS * rate), channels))
    tones = np.stack([wave(SECONDS, channel, rate) for channel in range(channels)], axis=1)
    soundfile.write(path, tones + noise, rate, **options)
    with soundfile.SoundFile(path) as file:
        return file.read(file.frames, dtype="float32", always_2d=True)  # soundfile.read seeks first


def names(copies: DecodedCopies) -> set[str]:
    """Return the names of the files in the folder of the copies."""
    return {path.name for path in copies.folder.iterdir()}


OPUS = {"format": "OGG", "subtype": "OPUS"}
FORMATS = [
    ("mp3", 44_100, 2, {}), ("mp3", 16_000, 1, {}), ("mp3", 8_000, 2, {}),
    ("ogg", 44_100, 2, {}), ("ogg", 8_000, 1, {}),
    ("opus", 48_000, 2, OPUS), ("opus", 16_000, 1, OPUS),
    ("wav", 8_000, 1, {"subtype": "GSM610"}), ("wav", 16_000, 2, {"subtype": "IMA_ADPCM"}),
    ("flac", 44_100, 2, {}), ("flac", 16_000, 1, {"subtype": "PCM_24"}),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "rate", "channels", "options"), FORMATS)
def test_segments_have_the_samples_of_a_sequential_decoder(
    tmp_path: Path, copies: DecodedCopies, decoded: list[Path], ending: str, rate: int, channels: int, options: Any
) -> None:
    path = tmp_path / f"a.{ending}"
    whole = write(path, rate, channels, **options)
    spans = SPANS * 2
    random.Random(0).shuffle(spans)
    for start, end in spans:
        first, last = round(start * rate), len(whole) if end is None else round(end * rate)
        expected = whole[first:last]
        for channel in range(channels):
            np.testing.assert_array_equal(decode_segment(path, start, end, channel)[0], expected[:, channel])
        np.testing.assert_array_equal(decode_segment(path, start, end, "mix")[0], expected.mean(1, dtype=np.float32))
    assert decoded == ([] if ending == "flac" else [path])  # FLAC can seek
    if ending != "flac":  # negative control: the samples come from the copy, and another sample is seen
        (copy,) = [copies.folder / name for name in names(copies) - {"lock"}]
        content = bytearray(copy.read_bytes())
        content[4 * channels * round(1.5 * rate)] ^= 1
        copy.write_bytes(content)
        assert not np.array_equal(decode_segment(path, 1.4, 1.6, 0)[0], whole[round(1.4 * rate) : round(1.6 * rate), 0])


def test_many_threads_decode_a_file_once(tmp_path: Path, copies: DecodedCopies, decoded: list[Path]) -> None:
    whole = {}
    for number in range(2):
        whole[tmp_path / f"{number}.mp3"] = write(tmp_path / f"{number}.mp3")

    def is_equal(number: int) -> bool:
        path = tmp_path / f"{number % 2}.mp3"
        start = 0.6 + 0.01 * number
        found, rate = decode_segment(path, start, start + 0.2, 0)
        first = round(start * rate)
        return np.array_equal(found, whole[path][first : first + len(found), 0])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(is_equal, range(100)))
    assert sorted(decoded) == sorted(whole)


def test_the_copy_of_a_file_that_has_changed_is_not_read(
    tmp_path: Path, copies: DecodedCopies, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    write(path, subtype="IMA_ADPCM")
    status = path.stat()
    before = decode_segment(path, 1.0, 1.5, 0)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and mtime are equal
    after = decode_segment(path, 1.0, 1.5, 0)[0]
    np.testing.assert_array_equal(after, soundfile.read(path, dtype="float32")[0][16_000:24_000])
    assert not np.array_equal(after, before) and len(decoded) == 2
    monkeypatch.setattr(decoded_copies, "SETTLED_S", 3600.0)  # files that have just been changed
    decode_segment(path, 1.0, 1.5, 0)
    write(path)
    decode_segment(path, 1.0, 1.5, 0)
    assert len(decoded) == 2


def test_a_file_that_changes_while_it_is_copied_gets_no_copy(
    tmp_path: Path, copies: DecodedCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, decode = tmp_path / "a.mp3", decoded_copies._decode
    whole = write(path)

    def touching(*arguments: Any) -> bool:
        os.utime(path)
        return decode(*arguments)

    monkeypatch.setattr(decoded_copies, "_decode", touching)
    np.testing.assert_array_equal(decode_segment(path, 1.0, 1.5, 0)[0], whole[16_000:24_000, 0])
    assert names(copies) == {"lock"}


def test_a_damaged_file_gives_the_same_samples_and_errors_as_without_copies(
    tmp_path: Path, copies: DecodedCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcomes() -> list[Any]:
        found: list[Any] = []
        for path in sorted(tmp_path.glob("*.*")):
            for start, end in [*SPANS, (0.8, 1.7), (0.8, 2.5), (3.0, None)]:
                try:
                    found.append(decode_segment(path, start, end, 0)[0].tobytes())
                except AudioError as error:
                    found.append((error.reason, str(error)))
        return found

    for name in ("cut.mp3", "cut.ogg", "hole.ogg", "hole.mp3"):
        path = tmp_path / name
        write(path)
        content = path.read_bytes()
        third, half = len(content) // 3, len(content) // 2
        path.write_bytes(content[:half] if name.startswith("cut") else content[:third] + content[half:])
    found = outcomes()
    monkeypatch.setattr(decoded_copies, "LONG_S", 1e9)  # without copies
    assert found == outcomes()
    assert {one[0] for one in found if isinstance(one, tuple)} >= {"truncated", "end_past_file", "no_samples"}


def test_a_short_file_and_one_early_segment_make_no_copy(
    tmp_path: Path, copies: DecodedCopies, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.mp3")
    for start in (0.2, 0.2):
        decode_segment(tmp_path / "a.mp3", start, 0.4, 0)
    assert decoded == []
    decode_segment(tmp_path / "a.mp3", 0.2, 0.4, 0)  # a quarter of the file was decoded in vain
    assert decoded == [tmp_path / "a.mp3"]
    monkeypatch.setattr(decoded_copies, "LONG_S", 10.0)
    write(tmp_path / "b.mp3")
    decode_segment(tmp_path / "b.mp3", 1.5, 1.9, 0)
    assert decoded == [tmp_path / "a.mp3"]


def test_copies_of_a_killed_process_are_deleted_and_those_in_use_are_kept(
    tmp_path: Path, copies: DecodedCopies, decoded: list[Path]
) -> None:
    copies.folder.mkdir(mode=0o700)
    (copies.folder / "0123.part").write_bytes(b"of a killed process")
    write(tmp_path / "a.mp3")
    decode_segment(tmp_path / "a.mp3", 1.0, 1.5, 0)
    assert len(names(copies)) == 2 and "0123.part" not in names(copies)
    other = DecodedCopies(copies.folder)  # another process
    with AudioFile(tmp_path / "a.mp3") as file:
        assert other.copy_and_read(tmp_path / "a.mp3", file.header, 100, 200) is not None
    assert len(decoded) == 1
    copies.close()
    assert len(names(copies)) == 2
    other.close()
    assert names(copies) == {"lock"}


def test_the_oldest_copy_makes_room_once_a_file_was_decoded_in_vain(
    tmp_path: Path, copies: DecodedCopies, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecodedCopies, "_limit", lambda self, used: 5 * 4 * 16_000.0)  # two copies of 2 s
    paths = [tmp_path / f"{name}.mp3" for name in "abc"]
    for path in paths:
        whole = write(path)
    for path in paths[:2]:
        decode_segment(path, 1.0, 1.5, 0)
    decode_segment(paths[0], 1.0, 1.5, 0)  # so that the copy of b was not used for the longest time
    with pytest.warns(
        UserWarning, match=r"half of the free space of .*copies, which allows 0.00032 GB, found 0.00038 GB"
    ):
        np.testing.assert_array_equal(decode_segment(paths[2], 1.0, 1.5, 0)[0], whole[16_000:24_000, 0])
    assert decoded == paths[:2]
    decode_segment(paths[2], 1.0, 1.5, 0)
    assert decoded == paths
    decode_segment(paths[0], 1.0, 1.5, 0)
    assert decoded == paths
    decode_segment(paths[1], 1.0, 1.5, 0)
    assert decoded == paths  # deleted, and not yet decoded in vain once more


def test_without_room_or_a_folder_segments_are_decoded_as_before_with_one_warning(
    tmp_path: Path, copies: DecodedCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp3"
    whole = write(path)

    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_copies, "_decode", full)
    with pytest.warns(UserWarning, match=r"found: \[Errno 28\] No space left") as caught:
        found = [decode_segment(path, 1.0, 1.5, 0)[0] for _ in range(3)]
    np.testing.assert_array_equal(found, [whole[16_000:24_000, 0]] * 3)
    assert len(caught) == 1 and names(copies) == {"lock"}
    (tmp_path / "open").mkdir(mode=0o777)
    monkeypatch.setattr(segment, "COPIES", DecodedCopies(tmp_path / "open"))
    with pytest.warns(UserWarning, match="is not a folder of this user alone"):
        np.testing.assert_array_equal(decode_segment(path, 1.0, 1.5, 0)[0], whole[16_000:24_000, 0])
