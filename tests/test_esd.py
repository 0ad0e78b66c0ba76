"""ESD: languages, official splits that share all speakers, transcripts in three encodings."""

from pathlib import Path

import pytest
from tiny_corpora import findings, labels, run_import, splits, touch, write

from features.errors import InputError, UsageError

CHINESE = {"Angry": "生气", "Neutral": "中立"}


def make(root: Path, with_splits: bool = True) -> Path:
    for speaker in ("0009", "0010", "0011", "0012", "0013"):
        text = ""
        for first, emotion in ((1, "Neutral"), (351, "Angry")):
            for number, split in enumerate(("evaluation", "test", "train"), first):
                name = f"{speaker}_{number:06d}"
                label = CHINESE[emotion] if speaker < "0011" else emotion
                text += f"{name}\tWords of sentence {number - first}.\t{label}\n"
                folder = root / speaker / emotion
                touch((folder / split if with_splits else folder) / f"{name}.wav")
        write(root / speaker / f"{speaker}.txt", text + "\n")
    return root


def test_official_splits_share_every_speaker(tmp_path: Path) -> None:
    result = run_import("esd", make(tmp_path / "esd"), language="english")
    assert labels(result) == {
        "train": {f"{speaker}_{number}": label for speaker in ("0011", "0012", "0013")
                  for number, label in (("000353", "angry"), ("000003", "neutral"))},
        "valid": {f"{speaker}_{number}": label for speaker in ("0011", "0012", "0013")
                  for number, label in (("000351", "angry"), ("000001", "neutral"))},
        "test": {f"{speaker}_{number}": label for speaker in ("0011", "0012", "0013")
                 for number, label in (("000352", "angry"), ("000002", "neutral"))},
    }  # fmt: skip
    line = splits(result)["test"][0]
    assert (line["transcript"], line["language"], line["speaker_id"]) == ("Words of sentence 1.", "english", "0011")
    found = findings(result)
    assert found["speaker_overlap"] == (
        "3 of 3 speakers of test are in train or valid; 3 of 3 speakers of valid are in train"
    )
    assert found["other_count"].count("1750 utterances of speaker") == 3
    assert "transcript_overlap" not in found  # no sentence of test is in train


def test_folds_by_speaker_replace_them(tmp_path: Path) -> None:
    result = run_import("esd", make(tmp_path / "esd"), language="all", protocol="groups")
    assert result.num_folds == 5 and result.speakers == {"train": 3, "valid": 1, "test": 1}
    assert "speaker_overlap" not in findings(result)


def test_encodings_and_contradictions_of_transcripts_are_reported(tmp_path: Path) -> None:
    source = make(tmp_path / "esd", with_splits=False)
    path = source / "0009" / "0009.txt"
    text = path.read_text("utf-8").replace("0009_000351\tWords of sentence 0.\t生气", "0009_000351\t打远一看\t快乐")
    path.write_text(text + "no line of this form\n", "gb18030")
    other = source / "0013" / "0013.txt"
    other.write_text(other.read_text("utf-8"), "utf-16")
    (source / "0013").rename(source / "0008")
    (source / "0008" / "0013.txt").rename(source / "0008" / "0008.txt")
    (source / "0010" / "0010.txt").unlink()
    touch(source / "0010" / "Angry" / "._0010_000351.wav")
    touch(source / "0010" / "Bored" / "0010_000351.wav")
    for speaker in ("0011", "0012"):
        (source / speaker).rename(source / f"000{speaker[-1]}")
    result = run_import("esd", source, language="chinese", folds=3)
    found = findings(result)
    assert found["encoding"] == "0008.txt is in utf-16, not in UTF-8; 0009.txt is in gb18030, not in UTF-8"
    assert found["conflicting_labels"].startswith("0009_000351 is in the folder Angry, but its transcript says 快乐")
    assert found["other_lines"] == "1 lines of 0009.txt are not: id, text, label"
    assert found["no_transcripts_of_speaker"].endswith("0010 has no file of transcripts")
    assert found["other_files"] == "2 files of 0010 have other names or folders and are left out"
    assert "no_official_splits" in found
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    assert lines["0009_000351"]["transcript"] == "打远一看" and lines["0009_000351"]["emotion"] == "angry"


def test_the_language_must_be_given_and_splits_be_complete(tmp_path: Path) -> None:
    source = make(tmp_path / "esd")
    with pytest.raises(UsageError, match="needs --language chinese, english or all"):
        run_import("esd", source)
    touch(source / "0011" / "Angry" / "0011_000360.wav")
    with pytest.raises(InputError, match=r"in train, evaluation or test, or none, found 18 of 19"):
        run_import("esd", source, language="english")
