"""What users give to `mervn check` besides a corpus: each kind with its exit code and its one message."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tiny import RATE, read_jsonl, wave, write_manifest

Flags = Sequence[str] | None
"""Further arguments of the command."""


def line(number: int, **fields: Any) -> Callable[[Path], Flags]:
    """Change fields of a line of train.jsonl."""

    def change(data: Path) -> Flags:
        lines = read_jsonl(data / "train.jsonl")
        lines[number - 1] |= fields
        write_manifest(data / "train.jsonl", lines)
        return None

    return change


def text(name: str, content: str | bytes) -> Callable[[Path], Flags]:
    """Write a file in the data folder."""

    def write(data: Path) -> Flags:
        (data / name).unlink(missing_ok=True)
        (data / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return None

    return write


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], Flags]:
    """Put something else in the place of a file."""

    def replace(data: Path) -> Flags:
        (data / name).unlink(missing_ok=True)
        make(data / name)
        return None

    return replace


def audio(samples: Any, **settings: Any) -> Callable[[Path], Flags]:
    """Write other samples into the first file."""
    return instead("u01.wav", lambda path: soundfile.write(path, samples, RATE, **settings))


def flags(*given: str) -> Callable[[Path], Flags]:
    """Pass further arguments; {data} is the data folder."""
    return lambda data: [each.format(data=data) for each in given]


def cut(data: Path) -> Flags:
    (data / "u01.wav").write_bytes((data / "u01.wav").read_bytes()[:3000])
    return None


def no_manifests(data: Path) -> Flags:
    for split in ("train", "valid", "test"):
        (data / f"{split}.jsonl").unlink()
    return None


def folds(**splits: list[str]) -> Callable[[Path], Flags]:
    return text("folds-1.json", json.dumps({"schema": 1, "folds": [splits]}))


def a_run(data: Path) -> Flags:
    run = data.parent / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "check.json").write_text("{}")
    return ["--output", str(run)]


def a_damaged_check(data: Path) -> Flags:
    (data.parent / "checked").mkdir()
    (data.parent / "checked" / "check.json").write_text('{"findings": []}')
    return ["--output", str(data.parent / "checked")]


def loop(path: Path) -> None:
    path.symlink_to(path.name)


LONE_SURROGATE = '{"utterance_id": "a", "wav_path": "u01.wav", "transcript": "\\ud800"}\n'
DEEP = json.loads("[" * 40 + "]" * 40)
REFUSED: dict[str, tuple[Callable[[Path], Flags], int, str]] = {
    "two data folders": (lambda data: ["--data", f"{data}-2"], 2, "give the data folder once"),
    "no such audio root": (flags("--audio-root", "{data}/none"), 2, "--audio-root must be a folder"),
    "no threads": (flags("--threads", "0"), 2, "--threads: input should be greater than 0"),
    "the data as output": (flags("--output", "{data}"), 2, "is not empty and holds no check"),
    "a file as output": (flags("--output", "{data}/u01.wav"), 2, "must be a folder for the check, found a file"),
    "a run as output": (a_run, 2, "must be a folder for the check, found a run"),
    "a damaged check": (a_damaged_check, 1, "must hold a check of schema 1, but lacks schema"),
    "no manifests": (no_manifests, 1, "must hold at least one of train.jsonl, valid.jsonl, test.jsonl"),
    "an empty manifest": (text("train.jsonl", "\n"), 1, "train.jsonl: must hold at least one utterance"),
    "broken JSON": (text("train.jsonl", '{"utterance_id": "a"\n'), 1, "train.jsonl:1: must be one JSON object"),
    "an indented file": (text("train.jsonl", "[\n{}\n]"), 1, "this looks like one JSON array"),
    "a table": (text("train.jsonl", "id,path\n1,a.wav\n"), 1, "this looks like CSV"),
    "another encoding": (text("train.jsonl", '{"utterance_id": "Đ"}'.encode("utf-16")), 1, "looks like UTF-16"),
    "bytes that are no text": (text("train.jsonl", b'{"utterance_id": "\xff"}'), 1, "train.jsonl:1: must be UTF-8"),
    "a folder as manifest": (instead("train.jsonl", Path.mkdir), 1, "it must be a file, found a folder"),
    "a named pipe as manifest": (instead("train.jsonl", os.mkfifo), 1, "it must be a file, found a named pipe"),
    "a broken link as manifest": (
        instead("train.jsonl", lambda p: p.symlink_to("no")),
        1,
        "train.jsonl does not exist",
    ),
    "a loop of links as manifest": (instead("train.jsonl", loop), 1, "train.jsonl cannot be read"),
    "an id twice": (line(1, utterance_id="u02"), 1, "train.jsonl:2: utterance_id must be unique"),
    "control characters": (line(1, utterance_id="a\x1b[31m"), 1, "must not contain control characters"),
    "a huge id": (line(1, speaker_id="s" * 9999), 1, "speaker_id must have at most 256 characters, found 9999"),
    "a huge path": (line(1, wav_path="a" * 9999), 1, "a file name must have at most 255 bytes"),
    "a time that is no number": (line(1, start=float("nan")), 1, "start must be finite and at least 0, found nan"),
    "an end before its start": (line(1, start=3, end=2), 1, "end must be greater than start"),
    "a nested value": (line(1, notes=DEEP), 1, "nested more than 32 deep"),
    "half a character": (text("train.jsonl", LONE_SURROGATE), 1, "transcript must be valid Unicode"),
    "a fold file that is no JSON": (text("folds-1.json", "{"), 1, "folds-1.json must be a JSON file of folds"),
    "a fold file of another form": (text("folds-1.json", "[]"), 1, "folds-1.json must be of the form"),
    "a folder as fold file": (instead("folds-1.json", Path.mkdir), 1, "it must be a file, found a folder"),
    "an id twice in a fold": (folds(train=["u01"], valid=["u01"]), 1, "fold 1: an utterance must be in one split"),
}
"""What is refused, by kind: how to make it, the exit code, and a part of the message."""
UNUSABLE: dict[str, tuple[Callable[[Path], Flags], str]] = {
    "a missing file": (instead("u01.wav", lambda path: None), "not_found"),
    "a folder": (instead("u01.wav", Path.mkdir), "not_found"),
    "a named pipe": (instead("u01.wav", os.mkfifo), "not_found"),
    "a loop of links": (instead("u01.wav", loop), "not_found"),
    "no bytes": (text("u01.wav", ""), "unreadable"),
    "text": (text("u01.wav", "no audio"), "unreadable"),
    "no samples": (audio(np.zeros(0)), "no_samples"),
    "NaN": (audio(np.full(99, np.nan), subtype="FLOAT"), "non_finite"),
    "an infinite sample": (audio(np.array([0.1, np.inf]), subtype="FLOAT"), "non_finite"),
    "a truncated file": (cut, "truncated"),
    "a rate of 8 Hz": (instead("u01.wav", lambda path: soundfile.write(path, wave(0.1, 0), 8)), "sample_rate"),
    "a channel that the file lacks": (line(1, channel=7), "no_channel"),
    "a start after the end": (line(1, start=99.0), "no_samples"),
}
"""Audio that a finding reports, by kind: how to make it, and its reason."""
