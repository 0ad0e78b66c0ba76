"""Copies of manifests: every key kept, one added, audio found from the new folder."""

from pathlib import Path

import pytest
from tiny import make_data, read_jsonl

from features.errors import InputError
from features.manifests.manifest import read_manifests
from features.manifests.rewrite import copy_manifests, moved_path


def test_a_copy_has_every_key_and_the_same_audio(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data", {"train": 3, "test": 2}), tmp_path / "deep" / "copy"
    (data / "folds-3.json").write_text("{}")
    output.mkdir(parents=True)
    manifests = read_manifests(data, ("train", "test"))
    files = copy_manifests(manifests, data, output, "more", {"train-000": "một", "test-001": ""})
    assert [file.name for file in files] == ["train.jsonl", "test.jsonl", "folds-3.json"]
    copies = read_manifests(output, ("train", "test"))  # also checks that the audio exists
    for split, values in {"train": ["một", None, None], "test": [None, ""]}.items():
        assert [one.extra["more"] for one in copies[split]] == values
        assert [list(line) for line in read_jsonl(output / f"{split}.jsonl")] == [
            [*line, "more"] for line in read_jsonl(data / f"{split}.jsonl")
        ]
        for before, after in zip(manifests[split], copies[split], strict=True):
            assert after.audio_path.resolve() == before.audio_path.resolve()
            assert (before.transcript, before.emotion, before.start) == (after.transcript, after.emotion, after.start)


def test_paths_below_an_audio_root_and_absolute_paths_stay(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data", {"test": 1}), tmp_path / "copy"
    output.mkdir()
    manifests = read_manifests(data, ("test",), audio_root=data)
    copy_manifests(manifests, data, output, "more", {}, move_audio=False)
    assert read_jsonl(output / "test.jsonl")[0]["wav_path"] == "test-000.wav"
    assert moved_path("/a/b.wav", data, output) == "/a/b.wav"
    assert moved_path("b.wav", data, output) == "../data/b.wav"


@pytest.mark.parametrize("path", ["rec/../wav/x.wav", "rec/../wav/link.wav", "rec/../link/x.wav"])
def test_a_path_that_leaves_a_linked_folder_names_the_file_of_the_system(tmp_path: Path, path: str) -> None:
    real, data, output = tmp_path / "real" / "rec", tmp_path / "data", tmp_path / "deep" / "copy"
    for folder in (real / "sub", real / "wav", data / "wav", output):
        folder.mkdir(parents=True)
    (data / "rec").symlink_to("../real/rec/sub")
    (real / "wav" / "x.wav").write_text("right")
    (data / "wav" / "x.wav").write_text("wrong")
    (real / "wav" / "link.wav").symlink_to("x.wav")
    (real / "link").symlink_to("wav")
    assert (data / path).read_text() == "right"
    # links after the last .. keep their names
    assert moved_path(path, data, output) == "../../real/" + path.replace("/..", "")
    assert moved_path(path.replace("../", "..//"), data, output) == moved_path(path, data, output)


def test_a_manifest_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "test": 2})
    manifests = read_manifests(data, ("train", "test"))
    with (data / "test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"test.jsonl must not change meanwhile"):
        copy_manifests(manifests, data, tmp_path, "more", {})
    assert not (tmp_path / "train.jsonl").exists()
