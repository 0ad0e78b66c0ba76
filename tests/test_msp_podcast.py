"""MSP-Podcast: the official partition, a chosen test set, utterances without agreement."""

from pathlib import Path

import pytest
from tiny_corpora import findings, labels, run_import, splits, touch, write

from features.errors import InputError

LINES = [
    ("0001_0001", "A", "1", "Train"), ("0001_0002", "N", "2", "Train"), ("0001_0003", "X", "2", "Train"),
    ("0002_0001", "A", "Unknown", "Development"), ("0002_0002", "N", "3", "Validation"),
    ("0003_0001", "H", "4", "Test1"), ("0003_0002", "O", "1", "Test1"), ("0004_0001", "C", "5", "Test2"),
    ("0005_0001", "", "6", "Test3"),
]  # fmt: skip


def make(root: Path) -> Path:
    table = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    for name, code, speaker, split in LINES:
        file = f"MSP-PODCAST_{name}.wav"
        table += f"{file},{code},4.5,3.25,5.0,{speaker},Female,{split}\n"
        touch(root / "Audios" / file)
    write(root / "Labels" / "labels_consensus.csv", table)
    write(root / "Transcripts" / "MSP-PODCAST_0003_0001.txt", "I am so glad.\n")
    return root


def test_the_official_partition_is_kept(tmp_path: Path) -> None:
    result = run_import("msp-podcast", make(tmp_path / "msp"))
    assert labels(result) == {
        "train": {"MSP-PODCAST_0001_0001": "angry", "MSP-PODCAST_0001_0002": "neutral"},
        "valid": {"MSP-PODCAST_0002_0001": "angry", "MSP-PODCAST_0002_0002": "neutral"},
        "test": {"MSP-PODCAST_0003_0001": "happy", "MSP-PODCAST_0003_0002": "other"},
    }
    assert splits(result)["test"][0] == {
        "utterance_id": "MSP-PODCAST_0003_0001", "speaker_id": "4", "transcript": "I am so glad.",
        "wav_path": "../msp/Audios/MSP-PODCAST_0003_0001.wav", "emotion": "happy", "source_label": "H",
        "activation": 4.5, "valence": 3.25, "dominance": 5.0, "gender": "Female", "podcast": "0003",
    }  # fmt: skip
    assert result.left_out == {
        "without agreement of the raters (X)": ["MSP-PODCAST_0001_0003"],
        "in Test2": ["MSP-PODCAST_0004_0001"],
        "in Test3": ["MSP-PODCAST_0005_0001"],
    }
    found = findings(result)
    assert found["speaker_unknown"] == "the speaker of 1 of 6 utterances is unknown"
    assert found["speaker_overlap"] == "1 of 2 speakers of test are in train or valid"
    assert "train has no happy, other" in found["class_missing"]


def test_another_test_set_is_chosen_by_a_flag(tmp_path: Path) -> None:
    result = run_import("msp-podcast", make(tmp_path / "msp"), test_set="Test2")
    assert labels(result)["test"] == {"MSP-PODCAST_0004_0001": "contempt"}
    assert len(result.left_out["in Test1"]) == 2


def test_missing_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "msp").mkdir()
    with pytest.raises(InputError, match=r"must have Labels/labels_consensus.csv"):
        run_import("msp-podcast", tmp_path / "msp")


def test_a_rating_that_is_no_number_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "msp")
    table = source / "Labels" / "labels_consensus.csv"
    table.write_text(table.read_text().replace("0001_0001.wav,A,4.5", "0001_0001.wav,A,high"))
    with pytest.raises(InputError, match=r"MSP-PODCAST_0001_0001.wav: EmoAct must be a number, found 'high'"):
        run_import("msp-podcast", source)
