"""Data against what a recipe expects: yes only if everything is found, and a reason for each no."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import read_jsonl, write_manifest

from features.atomic_files import write_json
from mervn.config import TrainHeadOptions
from mervn.study.recipe_checks import NOT_OPENED, DataCheck, check_data
from mervn.study.recipes import Expects

EMOTIONS = ("angry", "happy", "neutral", "sad")
IEMOCAP: dict[str, Any] = {
    "utterances": 40, "labels": 4, "speakers": 10, "folds": 5, "fold-key": "session", "fold-speakers": 2,
    "disjoint-speakers": True,
}  # fmt: skip
"""A corpus in the shape of IEMOCAP: 5 sessions of 2 speakers, one utterance of each emotion per speaker."""


def make_sessions(folder: Path) -> Path:
    """Write manifests and leave-one-session-out folds; the next session is the valid split."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for session in range(1, 6):
        for speaker in "FM":
            for emotion in EMOTIONS:
                name = f"Ses{session:02d}{speaker}_{emotion}"
                lines.append(
                    {
                        "utterance_id": name, "speaker_id": f"{session}{speaker}", "session": session,
                        "wav_path": f"{name}.wav", "emotion": emotion,
                        "transcript": f"{emotion if (session + len(emotion)) % 3 else 'uh'} {speaker}",
                    }
                )  # fmt: skip
    write_manifest(folder / "train.jsonl", lines[:24])
    write_manifest(folder / "valid.jsonl", lines[24:32])
    write_manifest(folder / "test.jsonl", lines[32:])
    folds = []
    for test in range(1, 6):
        fold: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
        for line in lines:
            split = {test: "test", test % 5 + 1: "valid"}.get(line["session"], "train")
            fold[split].append(line["utterance_id"])
        folds.append(fold)
    write_json(folder / "folds-5.json", {"schema": 1, "folds": folds})
    return folder


def change(data: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    for split in ("train", "valid", "test"):
        lines = read_jsonl(data / f"{split}.jsonl")
        for line in lines:
            edit(line)
        write_manifest(data / f"{split}.jsonl", lines)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_sessions(tmp_path / "data")


def check(data: Path, expects: dict[str, Any], folds: tuple[int, ...] = (1, 2, 3, 4, 5), **options: Any) -> DataCheck:
    with_test = options.pop("with_test", True)
    model = Expects.model_validate(expects)
    return check_data(model, TrainHeadOptions(**options), data, folds, with_test=with_test)


def test_the_same_data_are_shown_in_every_point(data: Path) -> None:
    found = check(data, IEMOCAP)
    assert [each.status for each in found.checks] == ["same"] * 7
    assert found.same_split == "yes" and found.num_test == 40


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"utterances": 41}, "no: 41 utterances expected, 40 found"),
        ({"labels": 5}, "no: 5 labels expected, 4 found"),
        ({"speakers": 12}, "no: 12 speakers expected, 10 found"),
        ({"folds": 10}, "no: 10 folds expected, 5 found"),
        ({"fold-speakers": 1}, "no: 1 speakers in test of each fold expected, 2 in 1"),
        ({"fold-key": "speaker_id"}, "no: one speaker_id in test of each fold expected, 2 in 1"),
        ({"fold-key": "dialogue"}, "cannot be shown: one dialogue in test of each fold expected, but some lines of"),
        ({"unknown": "the paper gives no split"}, "cannot be shown: the paper gives no split"),
        ({"splits": {"train": 24}}, "no: 24 train utterances expected, but the grid has folds"),
    ],
)
def test_a_point_that_differs_is_named(data: Path, expected: dict[str, Any], reason: str) -> None:
    assert check(data, IEMOCAP | expected).same_split.startswith(reason)


def test_labels_count_after_they_were_renamed_or_dropped(data: Path) -> None:
    assert check(data, {"labels": 3}, label_map=("happy=neutral",)).same_split == "yes"
    assert check(data, {"labels": 3, "utterances": 30}, drop_label=("sad",)).same_split == "yes"


def test_a_fold_of_another_session_or_an_utterance_that_is_never_tested_is_found(data: Path) -> None:
    def swap(line: dict[str, Any]) -> None:
        if line["speaker_id"] in ("1F", "2F"):
            line["session"] = 3 - line["session"]

    change(data, swap)
    assert "one session in test of each fold expected, 2 in 1" in check(data, IEMOCAP).same_split
    change(data, swap)
    assert check(data, IEMOCAP).same_split == "yes"
    found = check(data, IEMOCAP, folds=(1, 2, 3, 4)).same_split
    assert "5 folds expected, 4 found" in found and "32 of 40 utterances 32 times" in found


def test_a_session_that_is_tested_and_trained_on_is_found(data: Path) -> None:
    change(data, lambda line: line.update(session=1) if line["session"] == 3 else None)
    assert "but that of 1 is also in train or valid" in check(data, {"fold-key": "session"}).same_split


def test_a_speaker_of_test_in_train_and_unknown_speakers_are_found(data: Path) -> None:
    change(data, lambda line: line.update(speaker_id="1F") if line["utterance_id"] == "Ses03F_sad" else None)
    disjoint = {"disjoint-speakers": True}
    assert check(data, disjoint).same_split == "no: no speaker of test in train or valid expected, found 1: 1F"
    change(data, lambda line: line.update(speaker_id=None) if line["speaker_id"] == "1F" else None)
    for expects in (disjoint, {"speakers": 10}, {"folds": 5, "fold-speakers": 2}):
        assert check(data, expects).same_split.startswith("cannot be shown: ")


def test_without_folds_the_splits_count_and_test_is_not_opened_unasked(data: Path) -> None:
    expects = {"splits": {"train": 24, "valid": 8, "test": 8}, "utterances": 40}
    assert check(data, expects, ()).same_split == "yes"
    (data / "test.jsonl").unlink()
    found = check(data, expects, (), with_test=False)
    assert found.same_split.startswith("cannot be shown: ") and NOT_OPENED in found.same_split
    assert found.num_test is None
    assert "5 folds expected, 0 found" in check(data, IEMOCAP, (), with_test=False).same_split
    for expects in ({"fold-key": "session"}, {"fold-speakers": 2}):
        assert check(data, expects, (), with_test=False).same_split == "no: folds expected, but the grid has none"


def test_known_faults_are_reported_where_they_occur(data: Path) -> None:
    faults = [
        {"split": "test", "name": "Ses05F_sad", "fault": "wrongly cut"},
        {"split": "train", "name": "Ses05M_sad", "fault": "corrupt"},
    ]
    found = check(data, {"splits": {"test": 8}, "faults": faults}, ())
    assert found.notes == ("test.jsonl:4: Ses05F_sad is known to be wrongly cut",)
    assert found.same_split == "yes"


def test_a_recipe_that_expects_nothing_shows_nothing(data: Path) -> None:
    assert check(data, {}).same_split == "cannot be shown: the recipe expects nothing of the data"
