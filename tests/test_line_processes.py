"""A manifest that several processes parse gives what one process gives, also if they end or cannot start."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from features import regular_files
from features.errors import InputError
from features.manifests import line_processes, manifest_file
from features.manifests.manifest import read_manifests
from features.manifests.parsed_lines import ParsedLines
from features.manifests.utterance import Utterance
from features.process_map import WorkProcess
from features.progress import Silent

BLOCK_BYTES = 400


def line(i: int, **changes: Any) -> bytes:
    document = {"utterance_id": f"u{i}", "speaker_id": f"s{i % 3}", "wav_path": f"call-{i // 4}.wav", "start": 0.5}
    document |= {"transcript": "chào " * (i % 5), "queue": {"number": i}} if i % 7 else {}
    return json.dumps(document | changes, ensure_ascii=False).encode()


def good_lines() -> dict[int, bytes]:
    lines = {i: line(i) for i in range(200)}
    lines[40] += b"\n\n  "
    lines[50] = line(50, transcript=None) + b"\r\n\r\n" + line(1050)
    lines[60] = line(60, transcript="a\u2028b\x0bc")  # no ends of lines
    lines[70] = line(70, wav_path="x" * 200, transcript="ừ" * BLOCK_BYTES)  # longer than a block
    for i in (84, 189):
        lines[i] = line(i, transcrip="x")  # a warning
    return lines


def bad_lines() -> dict[int, bytes]:
    lines = good_lines()
    lines[20] = b"{"
    lines[90] = line(90, start="x", end=0.1)
    lines[91] = line(21)  # an id twice, in different blocks
    lines[120] = b"\xff\xfe"
    lines[150] = b"[" * 100_000
    lines[199] = line(199, utterance_id="")
    return lines


@pytest.fixture(params=["good", "bad", "mark", "carriage returns", "no last end", "blank first", "none", "CSV"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    lines = list((bad_lines() if request.param == "bad" else good_lines()).values())
    content = b"\n".join(lines) + b"\n"
    content = {
        "mark": b"\xef\xbb\xbf" + content,
        "carriage returns": b"\r".join(lines),
        "no last end": content.rstrip(),
        "blank first": b"\n" * 3 * BLOCK_BYTES + content,
        "none": b" \n" * BLOCK_BYTES,
        "CSV": b"\n" * 3 * BLOCK_BYTES + b"id,path\n" + content,
    }.get(request.param, content)
    (tmp_path / "train.jsonl").write_bytes(content)
    return tmp_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_files, "BLOCK_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(line_processes, "usable_cores", lambda: 3)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes that parse; all have ended when the test ends."""
    popen, found = subprocess.Popen, []
    monkeypatch.setattr(line_processes, "MIN_BYTES", 0)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: found.append(popen(*args, **kwargs)) or found[-1])
    yield found
    assert all(process.returncode is not None for process in found)


def read(data: Path) -> tuple[list[Utterance] | str, str, list[str]]:
    """Return the utterances or the faults, the hash, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            manifests = read_manifests(data, ["train"], require_emotion=False, check_audio=False)
            found: list[Utterance] | str = list(manifests["train"])
        except InputError as error:
            return str(error), "", []
    return found, manifests.sha256["train"], [str(warning.message) for warning in caught]


@pytest.fixture
def expected(data: Path) -> Any:
    """What one process gives; requested before `started`."""
    return read(data)


def test_several_processes_give_what_one_gives(
    data: Path, expected: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_processes.BlockParser, "__call__", None)  # of this process
    assert read(data) == expected
    assert len(started) == (0 if "found none" in expected[0] or "looks like" in expected[0] else 3)


@pytest.mark.parametrize("after", [0, 5])
def test_blocks_of_processes_that_have_ended_are_parsed_here(
    data: Path, expected: Any, started: list[Any], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = WorkProcess.send, []

    def kill(self: WorkProcess[bytes, ParsedLines]) -> None:
        sent.append(self.pending)
        if len(sent) > after and self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        send(self)

    monkeypatch.setattr(WorkProcess, "send", kill)
    assert read(data) == expected


def test_processes_that_cannot_start_are_not_needed(
    data: Path, expected: Any, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    assert read(data) == expected and started == []


def test_processes_end_if_reading_is_interrupted(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(good_lines().values()))

    def interrupt(self: WorkProcess[bytes, ParsedLines]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkProcess, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path)
    assert len(started) == 3


def test_a_small_manifest_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(good_lines().values()))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("must start no process"))
    assert len(read(tmp_path)[0]) == 201


@pytest.mark.parametrize("count", [1, 3])
def test_lines_before_a_read_error_count(
    count: int, tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(bad_lines().values()))
    blocks = regular_files.read_blocks

    def failing(path: Path) -> Iterator[bytes]:
        for number, block in enumerate(blocks(path)):
            if number == 30:
                raise OSError(5, "Input/output error")
            yield block

    monkeypatch.setattr(manifest_file, "read_blocks", failing)
    monkeypatch.setattr(line_processes, "usable_cores", lambda: count)
    found = str(read(tmp_path)[0])
    assert (
        "Input/output error" in found and "start must be" not in found and "train.jsonl:21: must be one JSON" in found
    )
    monkeypatch.setattr(line_processes, "usable_cores", lambda: 1)
    assert read(tmp_path)[0] == found


def test_what_python_is_told_reaches_the_processes(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = list(good_lines().values())
    lines[150] = line(150)[:-1] + b', "big": ' + b"9" * 5000 + b"}"
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    before = sys.get_int_max_str_digits()
    try:
        assert "Exceeds the limit" in read(tmp_path)[0]
        sys.set_int_max_str_digits(0)
        assert len(read(tmp_path)[0]) == 201
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("executable", [None, "", "/bin/false", "noisy"])
def test_programs_that_are_no_python_are_not_needed(
    data: Path,
    expected: Any,
    started: list[Any],
    executable: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if executable == "noisy":
        wrapper = tmp_path / "python"
        wrapper.write_text(f'#!/bin/sh\necho hello\nexec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        executable = str(wrapper)
    monkeypatch.setattr(sys, "executable", executable)
    assert read(data) == expected


def test_control_lines_are_numbered_within_the_file(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(good_lines().values()))
    before, extend = read(tmp_path), ParsedLines.extend
    assert len(before[0]) == 201 and "(2 lines)" in before[2][0]

    def forget(self: ParsedLines, following: ParsedLines) -> None:
        following.num_lines = 0
        extend(self, following)

    monkeypatch.setattr(ParsedLines, "extend", forget)
    assert read(tmp_path)[0] != before[0]


class Bars(Silent):
    """Reporter that keeps its progress bars: what each is for, its unit, its total, its steps and the bar."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, str, int, list[int | str], Any]] = []

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        bar, steps = super().progress(total, done, what, unit), list[int | str]()
        self.bars.append((what, unit, total, steps, bar))
        bar.update = steps.append
        bar.close = lambda: steps.append("closed")
        return bar


@pytest.mark.parametrize("min_bytes", [0, 1 << 60], ids=["processes", "one process"])
def test_the_progress_of_a_large_manifest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_bytes: int
) -> None:
    monkeypatch.setattr(line_processes, "MIN_BYTES", min_bytes)
    monkeypatch.setattr(manifest_file, "MB", 100)
    size = (tmp_path / "train.jsonl").write_bytes(b"\n".join(good_lines().values()))
    (tmp_path / "valid.jsonl").write_bytes(b"")
    total = round(size / 100)
    monkeypatch.setattr(manifest_file, "SHOWN_BYTES", size)
    shown = Bars()
    with pytest.warns(UserWarning, match="not a field"), pytest.raises(InputError, match="at least one utterance"):
        read_manifests(tmp_path, ["train", "valid"], require_emotion=False, check_audio=False, reporter=shown)
    (bar,) = shown.bars  # none of the small one
    assert bar[:3] == ("reading train.jsonl", " MB", total)
    *steps, last, end = bar[3]
    assert {*steps} == {BLOCK_BYTES // 100} and len(steps) == size // BLOCK_BYTES
    assert sum(map(int, [*steps, last])) == total and end == "closed"
