"""Commands that messages suggest work when they are pasted into a shell in the same folder."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile
from tiny import make_data, make_phobert, make_whisper, read_jsonl, write_manifest

from cli.main import run
from features.command_lines import DataPlace, extract_command, recorded_flags
from features.encoders.selector import parse_selector
from features.store.index import list_stores

Captured = pytest.CaptureFixture[str]
FAST = ["--epochs", "1", "--dim", "16", "--mlp", "8"]
COUNTS = {"train": 8, "valid": 6, "test": 4}


def suggested(text: str) -> list[list[str]]:
    """Return the arguments of every `mervn extract` that stands on a line of its own."""
    return [shlex.split(line.strip())[1:] for line in text.splitlines() if re.match(r"\s*mervn extract ", line)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data folder, a model and audio, all with names that a shell would split."""
    monkeypatch.chdir(tmp_path)
    data = make_data(tmp_path / "my data", COUNTS)
    (tmp_path / "my audio").mkdir()
    for path in data.glob("*.wav"):
        path.rename(tmp_path / "my audio" / path.name)
    make_whisper(tmp_path / "my model;v1")
    return tmp_path


PLACE = ["--data", "my data", "--features-dir", "my features", "--audio-root", "my audio"]


def test_what_is_not_extracted_is_extracted_by_the_suggested_command(folder: Path, capsys: Captured) -> None:
    train = ["train-head", *PLACE, *FAST, "--fusion", "audio", "--audio-encoder", "whisper=my model;v1@1"]
    assert run(train) == 1
    (command,) = suggested(capsys.readouterr().err)
    assert run(command) == 0
    assert run(train) == 0


def test_missing_utterances_are_added_to_the_store_that_lacks_them(folder: Path, capsys: Captured) -> None:
    make_phobert(folder / "pho")
    extract = ["extract", *PLACE, "--store-dtype", "fp32", "--splits", "train"]
    assert run([*extract, "--audio-encoder", "whisper=my model;v1", "--whisper-mode", "trimmed"]) == 0
    assert run([*extract, "--text-encoder", "phobert=pho", "--segmenter", "none", "--tone-style", "old"]) == 0
    train = ["train-head", *PLACE, *FAST]
    capsys.readouterr()
    assert run(train) == 1
    commands = suggested(capsys.readouterr().err)
    assert len(commands) == 2
    for command in commands:
        assert run(command) == 0
    assert run(train) == 0
    assert len(list_stores(folder / "my features")) == 2


def test_changed_transcripts_are_extracted_again_by_the_suggested_command(folder: Path, capsys: Captured) -> None:
    assert run(["extract", *PLACE, "--text-encoder", "hashed_ngrams"]) == 0
    lines = read_jsonl(folder / "my data" / "valid.jsonl")
    lines[0]["transcript"] = "đã sửa"
    write_manifest(folder / "my data" / "valid.jsonl", lines)
    train = ["train-head", *PLACE, *FAST, "--fusion", "text"]
    capsys.readouterr()
    assert run(train) == 1
    (command,) = suggested(capsys.readouterr().err)
    assert run(command) == 0
    assert run(train) == 0


def test_rejected_utterances_are_not_to_be_extracted_again(folder: Path, capsys: Captured) -> None:
    (folder / "my audio" / "valid-001.wav").write_bytes(b"no audio")
    assert run(["extract", *PLACE, "--audio-encoder", "fourier2vec"]) == 0
    train = ["train-head", *PLACE, *FAST, "--fusion", "audio"]
    capsys.readouterr()
    assert run(train) == 1
    message = capsys.readouterr().err
    assert "'valid-001' in " in message and "rejected.jsonl says why utterances were rejected" in message
    assert not suggested(message)
    lines = read_jsonl(folder / "my data" / "valid.jsonl")
    soundfile.write(folder / "my audio" / "new.wav", [0.1, -0.1] * 8000, 16_000)
    write_manifest(
        folder / "my data" / "valid.jsonl", [*lines, {**lines[0], "utterance_id": "new", "wav_path": "new.wav"}]
    )
    assert run(train) == 1
    (command,) = suggested(capsys.readouterr().err)
    assert run(command) == 0
    assert run([*train, "--allow-missing"]) == 0


def test_the_store_of_a_run_is_extracted_again_by_the_suggested_command(folder: Path, capsys: Captured) -> None:
    encoder = ["--audio-encoder", "whisper=my model;v1@1,2", "--store-dtype", "fp32"]
    assert run(["extract", *PLACE, *encoder]) == 0
    assert run(["train-head", *PLACE, *FAST, "--fusion", "audio", *encoder[:2], "--output", "run"]) == 0
    before = json.loads((folder / "run" / "metrics.json").read_text())["valid"]
    shutil.rmtree(folder / "my features")
    capsys.readouterr()
    assert run(["evaluate", "run", "--split", "valid"]) == 1
    (command,) = suggested(capsys.readouterr().err)
    assert run(command) == 0
    assert run(["evaluate", "run", "--split", "valid"]) == 0
    assert json.loads((folder / "run" / "metrics-valid.json").read_text())["valid"] == before


def test_commands_name_the_manifests_that_there_are(folder: Path, capsys: Captured) -> None:
    assert run(["extract", *PLACE, "--text-encoder", "hashed_ngrams"]) == 0
    assert run(["train-head", *PLACE, *FAST, "--fusion", "text", "--output", "run"]) == 0
    (folder / "other").mkdir()
    lines = read_jsonl(folder / "my data" / "test.jsonl")
    evaluate = ["evaluate", "run", "--data", "other", "--split", "test"]
    named = [{**line, "utterance_id": f"new {i}"} for i, line in enumerate(lines)]
    changed = [{**line, "transcript": "đã sửa"} for line in named]
    for found in (lines, [*lines, *named], [*lines, *changed]):  # no store, missing utterances, changed utterances
        write_manifest(folder / "other" / "test.jsonl", found)
        capsys.readouterr()
        assert run(evaluate) == 1
        (command,) = suggested(capsys.readouterr().err)
        assert run(command) == 0
        assert run(evaluate) == 0


def test_a_label_map_is_quoted(folder: Path, capsys: Captured) -> None:
    lines = read_jsonl(folder / "my data" / "train.jsonl")
    write_manifest(folder / "my data" / "train.jsonl", [{**lines[0], "emotion": "Rất vui"}, *lines[1:]])
    lines = read_jsonl(folder / "my data" / "valid.jsonl")
    write_manifest(folder / "my data" / "valid.jsonl", [{**lines[0], "emotion": "rất vui"}, *lines[1:]])
    assert run(["train-head", *PLACE, *FAST]) == 1
    assert "--label-map 'rất vui=Rất vui'" in capsys.readouterr().err


def test_the_best_layer_is_extracted_by_the_suggested_command(folder: Path, capsys: Captured) -> None:
    encoder = ["--audio-encoder", "whisper=my model;v1", "--whisper-mode", "trimmed"]
    assert run(["layers", *PLACE, *encoder, "--json"]) == 0
    captured = capsys.readouterr()
    (command,) = suggested(captured.err)
    assert run(command) == 0
    (info,) = list_stores(folder / "my features")
    assert info.identity.layer == json.loads(captured.out.splitlines()[-1])["best"]
    assert info.identity.config["mode"] == "trimmed"


def test_folders_that_a_command_finds_by_itself_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = parse_selector("whisper=a b@3", "audio")
    place = DataPlace(Path("d"), Path("d/stores"))
    assert extract_command(place, selector) == "mervn extract --data d --audio-encoder 'whisper=a b@3'"
    monkeypatch.setenv("MERVN_FEATURES", "/features")
    assert "--features-dir d/stores" in extract_command(place, selector)
    assert "--features-dir" not in extract_command(DataPlace(Path("d"), Path("/features")), selector)


@pytest.mark.parametrize(
    "text",
    [
        "--audio-encoder x; touch pwned",
        "--audio-encoder x --engine ray --workers",
        "$(touch pwned) x",
        "--output x",
        "--audio-encoder 'x",
    ],
)
def test_what_a_run_records_is_only_suggested_if_it_is_flags_of_extract(text: str) -> None:
    """A run of somebody else can record anything, and what is suggested is pasted into a shell."""
    assert recorded_flags(text) == []


def test_recorded_flags_are_quoted_again() -> None:
    flags = ["--audio-encoder", "whisper=/my model;v1@last", "--store-dtype", "fp32"]
    assert recorded_flags(shlex.join(flags)) == flags
    assert recorded_flags("--audio-encoder x;touch") == ["--audio-encoder", "x;touch"]
    assert shlex.join(recorded_flags("--audio-encoder x;touch")) == "--audio-encoder 'x;touch'"
