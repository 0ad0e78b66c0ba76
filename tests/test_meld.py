"""MELD: official splits, ids that are unique across them, the published faults, videos without audio."""

from pathlib import Path

import pytest
from tiny_corpora import findings, labels, run_import, splits, touch, write

from features.errors import InputError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
TABLES = {
    "train": [("0", "0", "Joey", "joy"), ("0", "1", "Ross", "anger"), ("125", "3", "Joey", "neutral")],
    "dev": [("0", "0", "Ross", "joy"), ("110", "7", "Joey", "anger"), ("111", "0", "Joey", "neutral")],
    "test": [("38", "4", "Joey", "neutral"), ("220", "0", "Monica", "joy"), ("1", "0", "Ross", "anger")],
}
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def make(root: Path, suffix: str = ".wav") -> Path:
    for split, lines in TABLES.items():
        table = HEADER
        for number, (dialogue, utterance, speaker, emotion) in enumerate(lines, 1):
            table += (
                f'{number},"Oh, I\x92m {speaker}",{speaker},{emotion},x,{dialogue},{utterance},8,21,"00:16:16,059",z\n'
            )
            if (split, dialogue) != ("dev", "110"):
                touch(root / FOLDERS[split] / f"dia{dialogue}_utt{utterance}{suffix}")
        write(root / f"{split}_sent_emo.csv", table)
    touch(root / FOLDERS["test"] / "final_videos_testdia1_utt0.wav")
    touch(root / FOLDERS["test"] / "._dia1_utt0.wav")
    return root


def test_splits_labels_and_faults_are_those_of_the_release(tmp_path: Path) -> None:
    result = run_import("meld", make(tmp_path / "meld"))
    assert labels(result) == {
        "train": {"train_dia0_utt0": "happy", "train_dia0_utt1": "angry", "train_dia125_utt3": "neutral"},
        "valid": {"valid_dia0_utt0": "happy", "valid_dia111_utt0": "neutral"},
        "test": {"test_dia38_utt4": "neutral", "test_dia220_utt0": "happy", "test_dia1_utt0": "angry"},
    }
    assert result.num_folds == 0 and result.left_out == {"without an audio file": ["valid_dia110_utt7"]}
    assert splits(result)["train"][0] == {
        "utterance_id": "train_dia0_utt0", "speaker_id": "Joey", "wav_path": "../meld/train_splits/dia0_utt0.wav",
        "transcript": "Oh, I\x92m Joey", "emotion": "happy", "source_label": "joy", "dialogue": "train_dia0",
        "sentiment": "x", "season": "8", "episode": "21",
    }  # fmt: skip
    known = sorted(finding.message for finding in result.findings if finding.id == "known_fault")
    assert known == [
        "dia110_utt7 is known to be missing in the release", "dia125_utt3 is known to be corrupt",
        "dia220_utt0 is known to be wrongly cut", "dia38_utt4 is known to be wrongly cut",
    ]  # fmt: skip
    found = findings(result)
    assert found["speaker_overlap"] == (
        "2 of 3 speakers of test are in train or valid; 2 of 2 speakers of valid are in train"
    )
    assert found["transcript_controls"].startswith("9 transcripts")
    assert found["other_count"].count("the published corpus has") == 3
    assert found["class_missing"] == "valid has no angry"
    (unlisted,) = (finding for finding in result.findings if finding.id == "unlisted_audio")
    assert unlisted.message == "1 audio files of test have no line in the table"
    assert unlisted.examples == ("final_videos_testdia1_utt0.wav",)


def test_videos_without_audio_are_refused_with_the_way_to_extract_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found 3 videos without it, such as .*dia0_utt0.mp4; .*ffmpeg -i"):
        run_import("meld", make(tmp_path / "meld", ".mp4"))


def test_a_missing_table_folder_or_column_is_named(tmp_path: Path) -> None:
    source = make(tmp_path / "meld")
    table = source / "dev_sent_emo.csv"
    table.write_text(table.read_text("utf-8").replace("Speaker,", "Who,"), "utf-8")
    with pytest.raises(InputError, match=r"dev_sent_emo.csv must have the columns .* but lacks Speaker"):
        run_import("meld", source)
    table.unlink()
    with pytest.raises(InputError, match=r"must have dev_sent_emo.csv, also in its folder dev"):
        run_import("meld", source)


def test_the_corrupt_video_whose_audio_cannot_be_extracted_is_left_out(tmp_path: Path) -> None:
    source = make(tmp_path / "meld")
    audio = source / "train_splits" / "dia125_utt3.wav"
    audio.rename(audio.with_suffix(".mp4"))
    result = run_import("meld", source)
    assert result.left_out == {"without an audio file": ["train_dia125_utt3", "valid_dia110_utt7"]}
    found = findings(result)
    assert found["video_without_audio"] == "1 videos have no audio file beside them"
    assert "dia125_utt3 is known to be corrupt" in found["known_fault"]
