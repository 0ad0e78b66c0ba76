"""The command `mervn split`: invalid input of any kind gives one clear message, and nothing is written."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_split_manifest import lines
from tiny import read_jsonl, write_manifest

from cli.main import run

Captured = pytest.CaptureFixture[str]
Lines = list[dict[str, Any]]
GOOD = lines(9, 4)


def text(written: Lines) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)


def changed(**values: Any) -> str:
    """Return the manifest with other values in its third line; None removes a key."""
    line = {key: value for key, value in {**GOOD[2], **values}.items() if value is not None}
    return text([*GOOD[:2], line, *GOOD[3:]])


def replaced(old: str, new: str) -> str:
    return text(GOOD).replace(old, new, 1)


OPTIONS: list[tuple[list[str], int, str]] = [
    ([], 2, "Missing argument 'FILE'"),
    (["all.jsonl"], 2, "--output must name the folder for train.jsonl, valid.jsonl and test.jsonl"),
    (["other.jsonl", "--output", "o"], 2, "must be a file .jsonl, but other.jsonl does not exist"),
    (["nowhere/all.jsonl", "--output", "o"], 2, "must be a file .jsonl, but nowhere/all.jsonl does not exist"),
    (["all.csv", "--output", "o"], 2, "must be a file .jsonl, found all.csv"),
    (["folder.jsonl", "--output", "o"], 1, "folder.jsonl"),
    (["all.jsonl", "more.jsonl", "--output", "o"], 2, "unexpected extra argument"),
    (["all.jsonl", "--output", "o", "--fold", "5"], 2, "No such option"),
    (["all.jsonl", "--output", "o", "--folds", "2"], 2, "--folds: input should be greater than or equal to 3"),
    (["all.jsonl", "--output", "o", "--folds", "many"], 2, "--folds: input should be a valid integer"),
    (["all.jsonl", "--output", "o", "--folds", "4", "--test", "0.2"], 2, "--folds"),
    (["all.jsonl", "--output", "o", "--valid", "0"], 2, "--valid: input should be greater than or equal to 0.001"),
    (["all.jsonl", "--output", "o", "--test", "1"], 2, "--test: input should be less than 1"),
    (["all.jsonl", "--output", "o", "--test", "nan"], 2, "--test: input should be"),
    (["all.jsonl", "--output", "o", "--valid", "0.5", "--test", "0.5"], 2, "must leave utterances for train"),
    (["all.jsonl", "--output", "o", "--group", ""], 2, "--group"),
    (["all.jsonl", "--output", "o", "--group", "speaker"], 2, "--group speaker: at least one utterance of all.jsonl"),
    (["all.jsonl", "--output", "o", "--balance", "dialct"], 2, "--balance dialct: at least one utterance of all.jsonl"),
    (["all.jsonl", "--output", "o", "--audio-root", "nowhere"], 2, "--audio-root must be a folder, but nowhere does"),
    (["all.jsonl", "--output", "o", "--group", "audio"], 1, "wav_path must be a file, but 0.wav does not exist"),
    (["all.jsonl", "--output", "all.jsonl"], 2, "--output must be a folder, found the file all.jsonl"),
    (["all.jsonl", "--output", "all.jsonl/o"], 2, "all.jsonl/o: Not a directory"),
    (["all.jsonl", "--output", "x" * 300], 2, "File name too long"),
    (["all.jsonl", "--output", "blocked", "--force"], 2, "blocked/test.jsonl must be a file or missing, found a"),
    (["all.jsonl", "--output", "used"], 2, "used must not hold another split, found valid.jsonl; replace it with"),
    (["used/valid.jsonl", "--output", "used", "--force"], 2, "used would replace used/valid.jsonl, the manifest th"),
    (["all.jsonl", "--output", "o", "--folds", "100000"], 1, "possible: --folds 4"),
    (["all.jsonl", "--output", "o", "--folds", "10"], 1, "9 groups that share speaker_id"),
]  # fmt: skip
MANIFESTS: list[tuple[str | bytes, str]] = [
    ("", "must hold at least one utterance, found none"),
    ("\n \n", "must hold at least one utterance, found none"),
    ("utterance_id,emotion\na,vui\n", "all.jsonl:1"),
    ("[1, 2]\n" + text(GOOD), "all.jsonl:1"),
    (text(GOOD) + '{"utterance_id": "x", "wav', "all.jsonl:37: must be one JSON object"),
    (text(GOOD).encode("utf-16"), "all.jsonl"),
    (text(GOOD).encode() + b'{"a": "\xff"}\n', "all.jsonl:37: must be UTF-8"),
    (text([*GOOD, GOOD[4]]), "utterance_id must be unique"),
    (replaced('"emotion"', '"emotion": "vui", "emotion"'), "all.jsonl:1"),
    (changed(emotion=None), "all.jsonl:3: emotion is missing"),
    (changed(emotion=7), "all.jsonl:3: emotion must be"),
    (changed(emotion="Vui"), "emotion 'vui' looks the same as 'Vui'"),
    (changed(utterance_id=None, utteranceid="a"), "all.jsonl:3"),
    (changed(speaker_id=4), "all.jsonl:3: speaker_id must be"),
    (changed(start=2, end=1), "all.jsonl:3: end must be greater than start"),
    (changed(channel="left"), "all.jsonl:3: channel must be 0, 1, ... or 'mix'"),
    (replaced('"dialect": "bắc"', '"dialect": NaN'), "all.jsonl:1"),
    (replaced('"dialect": "bắc"', '"dialect": "\\ud800"'), "lone surrogate"),
    (changed(emotion="sợ"), "'sợ' is in 1 group (of Đ000), and 3 are needed"),
    (text([{**line, "speaker_id": "one"} for line in GOOD]), "form 1 groups that share speaker_id: 36 with Đ000"),
    (text(lines(2, 6)), "possible: more speakers"),
]


def files_of(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_manifest(folder / "all.jsonl", GOOD)
    (folder / "all.csv").write_text("a,b\n")
    (folder / "folder.jsonl").mkdir()
    (folder / "blocked" / "test.jsonl").mkdir(parents=True)
    (folder / "used").mkdir()
    write_manifest(folder / "used" / "valid.jsonl", GOOD)
    return folder


def refuse(folder: Path, arguments: list[str], capsys: Captured) -> tuple[int, str]:
    """Run a command that fails; return its exit code and message, and check that nothing is written."""
    before = files_of(folder)
    code = run(["split", *arguments])
    captured = capsys.readouterr()
    assert (
        len(re.findall("^[eE]rror: ", captured.err, re.MULTILINE)) == 1
        and "Traceback" not in captured.err
        and captured.out == ""
    )
    assert files_of(folder) == before
    return code, captured.err


@pytest.mark.parametrize(("arguments", "code", "message"), OPTIONS)
def test_wrong_options_give_one_message(
    shared: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(shared)
    group = [] if "--group" in arguments else ["--group", "speaker_id"]
    found, error = refuse(shared, [*arguments, *group], capsys)
    assert message in error and found == code, error


@pytest.mark.parametrize(("content", "message"), MANIFESTS)
def test_invalid_manifests_give_one_message(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, content: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.jsonl").write_bytes(content.encode() if isinstance(content, str) else content)
    found, error = refuse(tmp_path, ["all.jsonl", "--output", "o", "--group", "speaker_id"], capsys)
    assert message in error and found == 1, error


def test_a_part_that_is_too_large_is_reported(tmp_path: Path, capsys: Captured) -> None:
    written = lines(12, 6)
    for line in written[:42]:
        line["speaker_id"] = "large"
    write_manifest(tmp_path / "all.jsonl", written)
    arguments = ["split", str(tmp_path / "all.jsonl"), "--output", str(tmp_path / "o"), "--group", "speaker_id"]
    assert run([*arguments, "--folds", "3"]) == 0
    captured = capsys.readouterr()
    shown = captured.err + captured.out
    assert (
        "has 58.3 % of the utterances instead of 33.3 %: groups are not divided, and the largest of 6 has 42" in shown
    )
    assert "42 (58 %)" in shown
    assert sum(len(read_jsonl(tmp_path / "o" / f"{split}.jsonl")) for split in ("train", "valid", "test")) == 72
