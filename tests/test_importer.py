"""Imports as a whole: nothing half-written, no silent choice between two utterances of one id."""

import json
from pathlib import Path

import pytest
from test_csv_table import make
from tiny_corpora import audio_bytes, findings, run_import, splits, touch, write

from features.corpora import importer
from features.corpora.registry import CORPORA
from features.errors import InputError, UsageError
from features.lazy_import import import_target
from features.manifests.manifest import read_manifests


def test_every_reader_of_the_registry_exists() -> None:
    for spec in CORPORA.values():
        assert callable(import_target(spec.target))


def test_what_is_written_is_read_without_faults(tmp_path: Path) -> None:
    result = run_import("csv", make(tmp_path / "csv"), folds=3)
    read = read_manifests(result.path, ("train", "valid", "test"))
    assert sum(map(len, read.values())) == 12


def test_a_repeated_id_is_written_once_or_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    text = path.read_text("utf-8-sig").strip()
    touch(tmp_path / "csv" / "copy" / "0-0.wav")
    write(path, f'{text}\ncopy/0-0.wav,s0,"xin chào, 0-0; nhé",Vui,30\n')
    result = run_import("csv", path, folds=3)
    assert sum(result.utterances.values()) == 12
    assert findings(result)["duplicate_id"] == "1 ids occur again with the same audio and label"
    (tmp_path / "csv" / "data").rename(tmp_path / "before")
    same = 'copy/0-0.wav,s0,"xin chào, 0-0; nhé",Vui,30'
    for line, content in (
        (same.replace("Vui", "buồn"), audio_bytes()), (same.replace("s0", "s1"), audio_bytes()),
        (same.replace("nhé", "nha"), audio_bytes()), (same, audio_bytes(3)),
    ):  # fmt: skip
        touch(tmp_path / "csv" / "copy" / "0-0.wav", content)
        write(path, f"{text}\n{line}\n")
        with pytest.raises(
            InputError, match=r"must have one audio, label, .* and split, found '0-0' for .*--id-column"
        ):
            run_import("csv", path, folds=3)
    assert not (tmp_path / "csv" / "data").exists()


def test_an_unknown_label_stays_and_is_reported(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    path.write_text(path.read_text("utf-8").replace("buồn", "Hoang Mang"), "utf-8")
    result = run_import("csv", path, folds=3)
    assert result.labels == {"Hoang Mang": {"Hoang Mang": 6}, "happy": {"Vui": 6}}
    message = "the label 'Hoang Mang' is not in the list of known labels; it stays as it is"
    assert findings(result)["label_unknown"] == message


def test_missing_audio_is_listed_and_none_at_all_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    (tmp_path / "csv" / "wav" / "3-1.wav").unlink()
    result = run_import("csv", path, folds=3)
    assert result.left_out == {"without an audio file": ["3-1"]}
    assert json.loads((result.path / "import.json").read_text())["left_out"] == result.left_out
    (tmp_path / "csv" / "data").rename(tmp_path / "before")
    (tmp_path / "csv" / "wav").rename(tmp_path / "csv" / "audio")
    with pytest.raises(InputError, match=r"found 12 without an audio file, such as .*wav/0-0.wav"):
        run_import("csv", path, folds=3)


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = make(tmp_path / "csv")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(importer, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_import("csv", path, folds=3)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_used_and_a_link_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    output = tmp_path / "csv" / "data"
    output.mkdir()
    assert run_import("csv", path, folds=3).path == output
    output.rename(tmp_path / "before")
    (tmp_path / "empty").mkdir()
    output.symlink_to(tmp_path / "empty")
    with pytest.raises(UsageError, match="--output must be missing or an empty folder, found .*data; remove it"):
        run_import("csv", path, folds=3)


def test_audio_that_is_a_link_keeps_its_name(tmp_path: Path) -> None:
    path = make(tmp_path / "csv")
    (tmp_path / "cache").mkdir()
    for audio in (tmp_path / "csv" / "wav").iterdir():
        audio.rename(tmp_path / "cache" / f"{audio.stem}-blob")
        audio.symlink_to(tmp_path / "cache" / f"{audio.stem}-blob")
    (tmp_path / "csv" / "wav").rename(tmp_path / "linked")
    (tmp_path / "csv" / "wav").symlink_to(tmp_path / "linked")
    result = run_import("csv", path, folds=3)
    line = splits(result)["test"][0]
    assert line["wav_path"] == f"../../linked/{line['utterance_id']}.wav"
    assert (result.path / line["wav_path"]).samefile(tmp_path / "cache" / f"{line['utterance_id']}-blob")
