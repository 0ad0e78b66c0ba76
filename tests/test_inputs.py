"""Inputs of a prediction: segments are matched with recordings, and each kind of input says what it lacks."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import wave, write_manifest

from features.audio.segment_reader import SegmentReader
from features.errors import InputError, UsageError
from features.progress import SILENT
from mervn.use import inputs
from mervn.use.inputs import Inputs, read_inputs
from mervn.use.predict_options import PredictOptions

BOTH = ("text", "audio")


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    (folder / "b").mkdir(parents=True)
    for name in ("a.wav", "b/a.wav", "b/c.flac", ".hidden.wav"):
        soundfile.write(folder / name, wave(2.0, 0), 16_000)
    (folder / "notes.txt").write_text("no audio")
    return folder


def read(*paths: Path, modalities: tuple[str, ...] = BOTH, **options: Any) -> Inputs:
    return read_inputs(paths, PredictOptions(**options), modalities, SILENT)


def test_a_folder_is_its_audio_files_in_order_each_once(calls: Path) -> None:
    found = read(calls, calls / "a.wav")
    assert [clip.file for clip in found.clips] == [str(calls / name) for name in ("a.wav", "b/a.wav", "b/c.flac")]
    assert found.seconds == [2.0] * 3


def test_linked_folders_are_read_once_and_loops_end(calls: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    for name in ("x.wav", "deep/y.wav"):
        soundfile.write(other / name, wave(0.5, 0), 16_000)
    (calls / "a-link").symlink_to(calls / "b")  # a folder below: its own path stays
    (calls / "link").symlink_to(other)
    (calls / "second").symlink_to(other)
    (other / "up").symlink_to(calls)
    (other / "self").symlink_to(other / "self")
    names = ("a.wav", "b/a.wav", "b/c.flac", "link/deep/y.wav", "link/x.wav")
    assert [clip.file for clip in read(calls).clips] == [str(calls / name) for name in names]


def test_a_folder_that_cannot_be_read_is_named(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if Path(path) == calls / "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"calls/b must be readable, as all below .*calls, found: Permission denied"):
        read(calls)


def test_segments_are_matched_with_files_by_path_name_or_stem(calls: Path) -> None:
    (calls / "s.csv").write_text("file,start,end,transcript\na.wav,0.5,1.5,xin chào\nb/c.flac,1,,\n", "utf-8")
    found = read(segments=calls / "s.csv")
    assert [clip.audio for clip in found.clips] == [calls / "a.wav", calls / "b" / "c.flac"]
    assert found.seconds == [1.0, 1.0] and found.clips[0].text == "xin chào"
    (calls / "s.rttm").write_text("SPEAKER c 1 0.5 1 <NA> <NA> an <NA> <NA>\n")
    (clip,) = read(calls, segments=calls / "s.rttm").clips
    assert clip.audio == calls / "b" / "c.flac" and clip.extra == {"speaker": "an"}
    (calls / "s.rttm").write_text("SPEAKER a 1 0.5 1 <NA> <NA> an <NA> <NA>\n")
    with pytest.raises(InputError, match=r"of one of the given files, not so: s.rttm:1 a \(2 files\)"):
        read(calls, segments=calls / "s.rttm")
    (calls / "t.csv").write_text("start,end\n0,1\n1,2\n")
    assert read(calls / "a.wav", segments=calls / "t.csv").seconds == [1.0, 1.0]
    with pytest.raises(InputError, match="without the column file"):
        read(segments=calls / "t.csv")


def test_a_segment_past_the_end_of_its_file_is_a_fault_of_this_segment(calls: Path) -> None:
    (calls / "s.csv").write_text("file,start,end\na.wav,0,1\na.wav,1,9\nnone.wav,0,1\n")
    found = read(segments=calls / "s.csv")
    assert {i: fault.reason for i, fault in found.faults.items()} == {1: "end_past_file", 2: "not_found"}


def test_each_channel_of_a_recording_is_read_as_its_list_names_it(calls: Path) -> None:
    soundfile.write(calls / "two.wav", np.stack([wave(1.0, 1), wave(1.0, 2)], 1), 16_000)
    lines = "SPEAKER two 1 0 1 <NA> <NA> an <NA> <NA>\nSPEAKER two {} 0 1 <NA> <NA> ba <NA> <NA>\n"
    (calls / "s.rttm").write_text(lines.format(2))
    first, second = read(calls / "two.wav", segments=calls / "s.rttm").clips
    reader = SegmentReader()
    for clip, channel in ((first, 0), (second, 1)):
        assert np.array_equal(clip.samples(reader), reader.read(calls / "two.wav", 0.0, 1.0, channel))
    assert not np.array_equal(first.samples(reader), second.samples(reader))  # negative control
    (calls / "s.csv").write_text("file,start,end,channel\ntwo.wav,0,1,1\n")
    assert read(segments=calls / "s.csv").clips[0].channel == 1
    with pytest.raises(UsageError, match=r"s.csv:2 names the channel of the segment itself; leave out --channel 0"):
        read(segments=calls / "s.csv", channel="0")
    (calls / "s.rttm").write_text(lines.format(1))
    assert [one.channel for one in read(calls / "two.wav", segments=calls / "s.rttm").clips] == ["mix"] * 2
    assert [one.channel for one in read(calls / "two.wav", segments=calls / "s.rttm", channel="1").clips] == [1] * 2


def test_a_manifest_gives_texts_of_its_own_or_another_key(calls: Path) -> None:
    lines = [
        {"utterance_id": "u1", "wav_path": "a.wav", "transcript": "vui", "asr": "vui vẻ", "speaker_id": "s"},
        {"utterance_id": "u2", "wav_path": "b/a.wav", "start": 0.5, "end": 1.0},
    ]
    write_manifest(calls / "new.jsonl", lines)  # type: ignore[arg-type]
    first, second = read(manifest=calls / "new.jsonl").clips
    assert (first.text, second.text, second.start, second.end) == ("vui", "", 0.5, 1.0)
    assert first.extra == {"utterance_id": "u1", "speaker_id": "s", "asr": "vui vẻ"}
    assert read(manifest=calls / "new.jsonl", transcript_key="asr").clips[0].text == "vui vẻ"
    with pytest.raises(UsageError, match="--manifest names the audio files itself"):
        read(calls, manifest=calls / "new.jsonl")


def test_a_model_of_text_needs_text(calls: Path) -> None:
    with pytest.raises(UsageError, match="reads only text, but no input has any"):
        read(calls, modalities=("text",))
    assert read(text="vui", modalities=("text",)).clips[0].text == "vui"


def test_every_window_has_samples(calls: Path) -> None:
    soundfile.write(calls / "low.wav", wave(1.0, 0, rate=4_000), 4_000)
    for window in (0.333333, 0.49994):  # the rests are 0.004 and 0.48 samples
        found = read(calls / "low.wav", window=window)
        assert len(found.clips) == round(1 / window) and not found.faults
        assert all(clip.samples(SegmentReader()).size for clip in found.clips)


UNREAD: dict[str, tuple[tuple[str, ...], bool, dict[str, Any], str]] = {
    "channel beside a manifest": (BOTH, False, {"manifest": "m.jsonl", "channel": "1"}, "--channel: a manifest names"),
    "key without a manifest": (BOTH, True, {"transcript_key": "asr"}, "--transcript-key: only --manifest has keys"),
    "root without a list": (BOTH, True, {"audio_root": "."}, "--audio-root: only the paths in --manifest"),
    "root of given files": (BOTH, True, {"segments": "s.csv", "audio_root": "."}, "--audio-root: only the paths"),
    "text of audio": (("audio",), True, {"text": "vui"}, "--text: the model reads only audio"),
    "key of audio": (
        ("audio",),
        False,
        {"manifest": "m.jsonl", "transcript_key": "asr"},
        "--transcript-key: the model",
    ),
    "channel of text": (("text",), False, {"text": "vui", "channel": "1"}, "--channel: the model reads only text"),
    "windows of text": (("text",), True, {"window": 1.0}, "--window: the model reads only text"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_options_that_nothing_reads_are_errors_if_they_are_given(calls: Path, name: str) -> None:
    modalities, has_path, options, message = UNREAD[name]
    write_manifest(calls / "m.jsonl", [{"utterance_id": "u", "wav_path": "a.wav", "transcript": "vui", "asr": "vui"}])
    (calls / "s.csv").write_text("start,end\n0,1\n")
    places = {key: calls / options[key] for key in ("manifest", "segments") if key in options}
    made = PredictOptions(**{**options, **places})
    paths = [calls / "a.wav"] if has_path else []
    with pytest.raises(UsageError, match=f"these options have no effect here; leave them out:\n  {message}"):
        read_inputs(paths, made, modalities, SILENT)
    if name != "windows of text":  # which needs another input
        assert read_inputs(paths, made.with_general(options), modalities, SILENT).clips  # as if mervn.toml had them


def test_a_transcript_key_that_no_line_has_is_an_error(calls: Path) -> None:
    lines = [{"utterance_id": f"u{i}", "wav_path": "a.wav", **({"asr_text": None} if i else {})} for i in range(2)]
    write_manifest(calls / "m.jsonl", lines)
    assert len(read(manifest=calls / "m.jsonl", transcript_key="asr_text").clips) == 2
    with pytest.raises(UsageError, match=r"m.jsonl besides the .*, found 'asr_txt'; did you mean asr_text\?"):
        read(manifest=calls / "m.jsonl", transcript_key="asr_txt")


def test_paths_replace_a_manifest_of_a_file(calls: Path) -> None:
    options = PredictOptions(manifest=calls / "none.jsonl").with_general(["manifest"])
    assert [clip.audio for clip in read_inputs([calls / "a.wav"], options, BOTH, SILENT).clips] == [calls / "a.wav"]


def test_speech_is_cut_into_windows(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [(0.25, 0.75), (1.0, 2.0)]
    monkeypatch.setattr(inputs, "open_detector", lambda: None)
    monkeypatch.setattr(inputs, "find_speech", lambda *_: parts)
    assert [(clip.start, clip.end) for clip in read(calls / "a.wav", vad=True).clips] == parts
    cut = read(calls / "a.wav", vad=True, window=0.5)
    assert [(clip.start, clip.end) for clip in cut.clips] == [(0.25, 0.75), (1.0, 1.5), (1.5, 2.0)]
