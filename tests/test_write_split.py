"""The files of a split: training reads them, another split is not mixed in, audio is found again."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from test_split_manifest import lines, plan
from tiny import read_jsonl, wave

from cli.main import run
from features.errors import UsageError
from features.manifests.folds import find_folds, read_fold
from features.manifests.manifest import read_manifests
from features.splitting.write_split import write_split


def test_the_files_are_read_by_training(tmp_path: Path) -> None:
    written = lines(num_speakers=6, each=6, wav_path="wav/a.wav", note={"x": [1, "ă"]})
    (tmp_path / "in" / "wav").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "wav" / "a.wav", wave(0.05, 1), 16_000)
    output = tmp_path / "deep" / "data"
    found = plan(tmp_path / "in", written, folds=3)
    assert write_split(found, output)[0].name == "folds-3.json"
    manifests = read_manifests(output, ("train", "valid", "test"))  # checks that the audio exists
    assert {name: [one.utterance_id for one in split] for name, split in manifests.items()} == found.folds[0]
    folds = find_folds(output, None)
    for number, fold in enumerate(found.folds, 1):
        splits, _ = read_fold(output, folds, number, ("train", "valid", "test"), None)
        assert {name: {one.utterance_id for one in split} for name, split in splits.items()} == {
            name: set(ids) for name, ids in fold.items()
        }
    (line,) = [line for line in read_jsonl(output / "test.jsonl") if line["utterance_id"] == found.folds[0]["test"][0]]
    (before,) = [each for each in written if each["utterance_id"] == line["utterance_id"]]
    assert line == {**before, "wav_path": "../../in/wav/a.wav"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_another_split_is_refused_or_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, output = lines(6), tmp_path / "data"
    write_split(plan(tmp_path, written), output)
    before = contents(output)
    write_split(plan(tmp_path, written[::-1]), output)  # the same split again
    assert contents(output) == before
    with pytest.raises(UsageError, match="must not hold another split, found train.jsonl"):
        write_split(plan(tmp_path, written, folds=3), output)
    other = plan(tmp_path, written, folds=3, force=True)
    assert contents(output) == before

    def full(path: Path, content: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("features.splitting.write_split.write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            write_split(other, output)
    assert contents(output) == {}  # nothing of the old split is left beside the new one
    write_split(other, output)
    assert set(contents(output)) == {"folds-3.json", "train.jsonl", "valid.jsonl", "test.jsonl", "split.json"}
    write_split(plan(tmp_path, written, force=True), output)
    assert contents(output).keys() == before.keys()  # the folds are removed too


def test_the_manifest_itself_is_not_replaced(tmp_path: Path) -> None:
    write_split(plan(tmp_path, lines()), tmp_path)
    found = plan(tmp_path, lines(), force=True)
    with pytest.raises(UsageError, match="--output must be a folder"):
        write_split(found, tmp_path / "all.jsonl")
    assert (
        run(["split", str(tmp_path / "train.jsonl"), "--output", str(tmp_path), "--group", "speaker_id", "--force"])
        == 2
    )
    assert (tmp_path / "train.jsonl").exists()


def test_the_command_prints_classes_speakers_and_their_effective_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(tmp_path, lines())
    arguments = ["split", str(tmp_path / "all.jsonl"), "--group", "speaker_id", "--balance", "dialect"]
    assert run(arguments) == 2
    assert run([*arguments, "--output", str(tmp_path / "data"), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert document["parts"]["test"]["speakers"] == 2 and document["groups"] == 12
    for text in (
        "buồn",
        "dialect nam",
        "G* of speakers",
        "test has 2 speakers: no test of a difference and no interval",
    ):
        assert text in captured.err
