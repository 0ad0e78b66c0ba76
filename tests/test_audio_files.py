"""Headers of audio files: kept in the file of facts, and read again when a file has changed."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tiny import Recorder, wave

from features.audio.facts_file import FACTS_FILE, read_known, read_section, write_section
from features.audio.file_state import file_state
from features.errors import InputError
from features.extraction import audio_files, prefetch
from features.extraction.audio_files import AudioFiles, read_files

NAMES = ["a.wav", "b.wav", "c.wav"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        soundfile.write(tmp_path / name, wave(0.1 * (number + 1), number, 8000), 8000)
    (tmp_path / "stores").mkdir()
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose header was read."""
    names: list[str] = []
    inspect_segment = audio_files.inspect_segment

    def reading(path: Path, *segment: Any) -> Any:
        names.append(path.name)
        return inspect_segment(path, *segment)

    monkeypatch.setattr(audio_files, "inspect_segment", reading)
    return names


def read(data: Path, *names: str, **options: Any) -> AudioFiles:
    paths = [(name, data / name) for name in names]
    defaults: dict[str, Any] = {"save": True, "threads": 2, "reporter": Recorder()}
    return read_files(paths, data / "stores", **defaults | options)


def headers(files: AudioFiles) -> list[tuple[int, int, int]]:
    return [files.header(i) for i in range(len(files))]


EXPECTED = [(8000, 800, 1), (8000, 1600, 1), (8000, 2400, 1)]


def test_a_header_is_read_once(data: Path, opened: list[str]) -> None:
    first = read(data, *NAMES)
    assert headers(first) == EXPECTED and sorted(opened) == NAMES
    assert [first.state(i) for i in range(3)] == [file_state(data / name) for name in NAMES]
    assert headers(read(data, *NAMES[::-1])) == EXPECTED[::-1] and len(opened) == 3
    assert json.loads((data / "stores" / FACTS_FILE).read_text())["schema"] == 3


@pytest.mark.parametrize("change", ["content", "time", "size"])
def test_a_changed_file_is_read_again(data: Path, opened: list[str], change: str) -> None:
    read(data, *NAMES)
    path, status = data / "b.wav", (data / "b.wav").stat()
    if change != "time":
        soundfile.write(path, wave(0.2 if change == "content" else 0.3, 9, 8000), 8000)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(1, 1))
    opened.clear()
    found = read(data, *NAMES)
    assert opened == ["b.wav"] and headers(found)[1] == (8000, 2400 if change == "size" else 1600, 1)
    opened.clear()
    assert headers(read(data, *NAMES)) == headers(found) and opened == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "types", "schema", "pipe"])
def test_a_damaged_file_of_facts_is_not_believed(data: Path, opened: list[str], damage: str) -> None:
    read(data, *NAMES)
    path = data / "stores" / FACTS_FILE
    text = path.read_text()
    if damage == "types":
        fields = audio_files.FIELDS
        write_section(path, "files", fields, [["a.wav", 1, 2.5, "x", "8000", None, 1]])
    elif damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        changed = {
            "flip": text.replace("1600", "1601"),
            "cut": text[:-40],
            "empty": "",
            "schema": text.replace(" 3", " 2"),
        }
        assert changed[damage] != text
        path.write_text(changed[damage])
    opened.clear()
    assert headers(read(data, *NAMES)) == EXPECTED and sorted(opened) == NAMES
    assert path.read_text() == text


def test_both_sections_and_other_files_are_kept(data: Path) -> None:
    path = data / "stores" / FACTS_FILE
    read(data, "a.wav")
    write_section(path, "facts", ["x"], [[1], ['ầ\n], "facts": [']])
    read(data, "b.wav", "c.wav")
    assert list(read_section(path, "facts", ["x"])) == [[1], ['ầ\n], "facts": [']]
    assert list(read_section(path, "facts", ["y"])) == []
    assert [entry[0] for entry in read_section(path, "files", audio_files.FIELDS)] == ["b.wav", "c.wav", "a.wav"]


def test_files_that_cannot_be_read_have_no_header(data: Path) -> None:
    (data / "text.wav").write_text("no audio")
    os.mkfifo(data / "pipe.wav")
    found = read(data, "text.wav", "pipe.wav", "missing.wav", "a.wav")
    assert [found.header(i).rate for i in range(4)] == [0, 0, 0, 8000]
    assert found.state(2) == (None, None, None) and found.state(1).fingerprint is None


def test_a_file_that_is_never_read_ends_the_command_and_is_named(
    data: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, inspect_segment = threading.Event(), audio_files.inspect_segment

    def hanging(path: Path, *segment: Any) -> Any:
        if path.name == "b.wav":
            answers.wait(10)
        return inspect_segment(path, *segment)

    monkeypatch.setattr(audio_files, "inspect_segment", hanging)
    monkeypatch.setattr(audio_files, "TASK_FILES", 1)
    monkeypatch.setattr(audio_files, "LIMIT_S", 0.05)
    monkeypatch.setattr(prefetch, "POLL_S", 0.01)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.01)
    with pytest.raises(InputError, match=r"b\.wav: the header must be read within 0 s, but the disk"):
        read(data, *NAMES)
    answers.set()
    opened.clear()
    monkeypatch.setattr(audio_files, "LIMIT_S", 10.0)
    assert headers(read(data, *NAMES)) == EXPECTED and "a.wav" not in opened  # what was read is kept


def test_a_folder_that_cannot_be_written_is_said(data: Path) -> None:
    (data / "stores").rmdir()
    (data / "stores").write_text("")
    recorder = Recorder()
    files = read(data, *NAMES, reporter=recorder)
    assert headers(files) == EXPECTED and not recorder.lines
    files.keep()
    assert "the headers of the audio are not kept" in recorder.lines[0]


def test_what_an_earlier_version_kept_about_mp3_and_ogg_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / FACTS_FILE
    names = ["a.wav", "b.MP3", "c.ogg", "d.flac"]
    entries = [[name, 10, 20, "x", 8000, 1600, 1] for name in names]
    for fields, expected in ((audio_files.FIELDS, names), (audio_files.EARLIER_FIELDS, ["a.wav", "d.flac"])):
        write_section(path, "files", fields, entries)
        found = read_known(path, "files", audio_files.FIELDS, audio_files.EARLIER_FIELDS)
        assert [entry[0] for entry in found] == expected
