"""Files joined byte by byte are no shorter utterances; tags and numbers of other encoders are no second stream."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio.second_stream import find_second_stream
from features.audio.segment import AudioError, inspect_segment, read_segment

ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (72).to_bytes(4, "little") + bytes(16)
APE_TAG = APE + bytes(40) + APE
LYRICS3 = b"LYRICSBEGIN" + b"IND0000200[00:01]words" + b"000033LYRICS200"
FORMATS = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]


def encoded(folder: Path, container: str, subtype: str, seconds: float = 1.0, rate: int = 16_000) -> bytes:
    path = folder / "part"
    soundfile.write(path, wave(seconds, 0, rate), rate, format=container, subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_a_joined_file_is_rejected_where_its_end_matters(tmp_path: Path, container: str, subtype: str) -> None:
    first, path = encoded(tmp_path, container, subtype), tmp_path / "joined"
    path.write_bytes(first)
    whole = read_segment(path, 0.0, None, "mix")
    path.write_bytes(first + encoded(tmp_path, container, subtype, 0.7))
    for end in (None, 1.0 + 1e-3, 1.7):
        for function in (inspect_segment, read_segment):
            with pytest.raises(AudioError, match="joined must be one stream of audio, found two: ") as caught:
                function(path, 0.0, end, "mix")
            assert caught.value.reason == "second_stream"
    np.testing.assert_array_equal(read_segment(path, 0.0, 0.5, "mix"), whole[:8000])


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("tags", [b"", ID3V1, APE_TAG + ID3V1, ID3V2, ID3V1 + ID3V2])
def test_tags_of_an_mp3_hide_no_second_stream_and_are_none(tmp_path: Path, tags: bytes, rate: int) -> None:
    first, path = encoded(tmp_path, "MP3", "MPEG_LAYER_III", rate=rate), tmp_path / "a.mp3"
    path.write_bytes(ID3V2 + first + tags)
    assert find_second_stream(path, "MP3") is None
    path.write_bytes(ID3V2 + first + tags + first)
    assert find_second_stream(path, "MP3") is not None


def test_lyrics_and_numbers_of_other_encoders_are_no_second_stream(tmp_path: Path) -> None:
    first, path = encoded(tmp_path, "MP3", "MPEG_LAYER_III"), tmp_path / "a.mp3"
    header = first.index(b"Xing")
    counted = int.from_bytes(first[header + 12 : header + 16], "big")
    assert counted == len(first)
    length = 144  # of the first frame, which some encoders do not count
    for number in (0, counted - length, counted + 1000, 2**32 - 1):
        changed = first[: header + 12] + number.to_bytes(4, "big") + first[header + 16 :]
        for tags in (b"", ID3V1, LYRICS3 + ID3V1, APE_TAG[32:]):
            path.write_bytes(changed + tags)
            assert find_second_stream(path, "MP3") is None
    path.write_bytes(first[: header + 4] + bytes(4) + first[header + 8 :] * 2)  # a header without numbers
    assert find_second_stream(path, "MP3") is None


@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_ogg_and_mp3_may_be_cut_anywhere(tmp_path: Path, container: str, subtype: str) -> None:
    joined = encoded(tmp_path, container, subtype, 0.2) * 2
    path = tmp_path / "cut"
    for size in (*range(64), *range(64, len(joined), 97)):
        path.write_bytes(joined[:size])
        find_second_stream(path, container)


def test_streams_of_an_ogg_file_that_begin_together_are_one(tmp_path: Path) -> None:
    one, other = encoded(tmp_path, "OGG", "VORBIS"), encoded(tmp_path, "OGG", "OPUS")
    first = 28 + one[27]  # a first page has one segment
    path = tmp_path / "a.ogg"
    path.write_bytes(one[:first] + other[: 28 + other[27]] + one[first:] + other[28 + other[27] :])
    assert find_second_stream(path, "OGG") is None


def test_other_containers_are_not_searched(tmp_path: Path) -> None:
    assert find_second_stream(tmp_path / "missing.flac", "FLAC") is None
