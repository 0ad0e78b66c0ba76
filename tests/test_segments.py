"""Windows, lists of segments, and times in the form of audformat."""

from pathlib import Path

import pytest

from features.errors import InputError
from mervn.use.segments import format_time, parse_time, read_segments, windows


def test_windows_cover_the_recording_and_the_last_one_ends_with_it() -> None:
    assert windows(0.0, 10.0, 4.0, 2.0, 16_000) == [(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.0)]
    assert windows(0.0, 9.0, 4.0, 2.0, 16_000)[-1] == (6.0, 9.0)
    assert windows(1.5, 3.0, 4.0, 4.0, 16_000) == [(1.5, 3.0)]
    found = windows(0.0, 7200.0, 0.3, 0.1, 16_000)
    assert found[12_345] == (1234.5, 1234.8) and len(found) == 71_998  # rounding errors do not add up


def test_a_rest_of_less_than_a_sample_is_no_window() -> None:
    assert windows(0.0, 1.0, 0.333333, 0.333333, 16_000)[-1] == (0.666666, 0.999999)
    assert len(windows(0.0, 1.0, 0.333333, 0.333333, 768_000)) == 3
    assert len(windows(0.0, 1.0001, 0.5, 0.5, 8_000)) == 2
    assert windows(0.0, 1.0001, 0.5, 0.5, 16_000)[-1] == (1.0, 1.0001)  # negative control: 1.6 samples


@pytest.mark.parametrize("seconds", [0.0, 1.5, 59.999999, 60.0, 3661.25, 90_000.000001])
def test_times_are_written_and_read_as_audformat_does(seconds: float) -> None:
    assert parse_time(format_time(seconds), "a.csv:2") == pytest.approx(seconds, abs=1e-9)
    assert parse_time(str(seconds), "a.csv:2") == seconds
    pandas = pytest.importorskip("pandas")
    assert pandas.to_timedelta(format_time(seconds)).total_seconds() == pytest.approx(seconds, abs=1e-9)


def test_a_csv_has_times_texts_and_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("file,start,end,text,turn\na.wav,1.5,0 days 00:00:03.250000,xin chào,2\nb.wav,0,NaT,,3\n", "utf-8")
    first, second = read_segments(path)
    assert (first.file, first.start, first.end, first.text) == ("a.wav", 1.5, 3.25, "xin chào")
    assert first.extra == {"turn": "2"} and second.end is None and second.text == ""


def test_rttm_has_the_speaker(tmp_path: Path) -> None:
    path = tmp_path / "a.rttm"
    path.write_text("SPKR-INFO call 1 <NA> <NA> <NA> unknown an <NA>\nSPEAKER call 1 0.5 1.25 <NA> <NA> an <NA> <NA>\n")
    (found,) = read_segments(path)
    assert (found.file, found.start, found.end, found.extra) == ("call", 0.5, 1.75, {"speaker": "an"})


def test_a_csv_has_the_channels_of_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("start,end,channel\n0,1,0\n0,1, 1\n0,1,mix\n0,1,\n")
    found = read_segments(path)
    assert [one.channel for one in found] == [0, 1, "mix", "mix"]
    assert found[0].extra == {"channel": "0"}  # further columns stay in the results
    path.write_text("start,end\n0,1\n")
    assert read_segments(path)[0].channel is None


def test_rttm_names_channels_from_1_if_a_file_has_several(tmp_path: Path) -> None:
    path = tmp_path / "a.rttm"
    names = [("call", "1"), ("call", "2"), ("call", "<NA>"), ("mono", "1"), ("mono", "<NA>"), ("zero", "0"), ("b", "2")]
    path.write_text("".join(f"SPEAKER {file} {name} 0 1 <NA> <NA> an <NA> <NA>\n" for file, name in names))
    assert [one.channel for one in read_segments(path)] == [0, 1, None, None, None, None, 1]


TWO_CHANNELS = "SPEAKER a 1 0 1 <NA> <NA> x\nSPEAKER a {} 0 1 <NA> <NA> y\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "start,channel\n0,1.5\n", "a.csv:2: channel must be 0, 1, ... or mix, found '1.5'"),
        ("a.csv", "start,channel\n0,left\n", "a.csv:2: channel must be 0, 1, ... or mix, found 'left'"),
        ("a.csv", "start,channel\n0,-1\n", "a.csv:2: channel must be 0, 1, ... or mix, found '-1'"),
        ("a.rttm", TWO_CHANNELS.format("0"), "a.rttm:2: channel must be 1, 2, ... or <NA>, found '0'"),
        ("a.rttm", TWO_CHANNELS.format("B"), "a.rttm:2: channel must be 1, 2, ... or <NA>, found 'B'"),
        ("a.csv", "file,begin\na.wav,1\n", "must have the columns file, start and end, found file, begin"),
        ("a.csv", "file,start,end\na.wav,2,1\n", "a.csv:2: end must be greater than start, found start=2 end=1"),
        ("a.csv", "file,start\na.wav,soon\n", "a.csv:2: a time must be seconds, or of the form .*found 'soon'"),
        ("a.csv", "file,start\na.wav,-1\n", "found '-1'"),
        ("a.csv", "file,start\na.wav,inf\n", "found 'inf'"),
        ("a.rttm", "SPEAKER call 1 0.5\n", "a.rttm:1: must be SPEAKER FILE CHANNEL START DURATION"),
        ("a.rttm", "\n", "must hold at least one segment"),
        ("a.txt", "x", "must be a .csv, .tsv or .rttm file"),
    ],
)
def test_lists_that_are_not_valid_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_segments(tmp_path / name)
