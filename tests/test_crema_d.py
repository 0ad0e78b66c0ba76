"""CREMA-D: folds by actor, sentences from the file name, the silent file."""

from pathlib import Path

import pytest
from tiny_corpora import findings, folds, run_import, splits, touch

from features.errors import InputError

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def make(root: Path) -> Path:
    for actor in range(1072, 1078):
        for emotion in EMOTIONS:
            touch(root / "AudioWAV" / f"{actor}_MTI_{emotion}_XX.wav")
    touch(root / "AudioWAV" / "1072_IEO_ANG_HI.wav")
    touch(root / "AudioWAV" / "1072_IEO_ANG.wav")
    return root


def test_actors_are_in_one_part_each(tmp_path: Path) -> None:
    result = run_import("crema-d", make(tmp_path / "crema"), folds=3)
    tested = [sorted({name[:4] for name in fold["test"]}) for fold in folds(result)]
    # computed once: another result means that users get other folds of the same corpus
    assert tested == [["1072", "1077"], ["1073", "1075"], ["1074", "1076"]]
    assert [len(fold["test"]) for fold in folds(result)] == [13, 12, 12]
    for fold in folds(result):
        actors = {split: {name[:4] for name in names} for split, names in fold.items()}
        assert actors["train"] | actors["valid"] | actors["test"] == set(map(str, range(1072, 1078)))
        assert sum(map(len, actors.values())) == 6
    assert result.protocol.startswith("3 folds without a common speaker, not official")
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    assert len(lines) == 37
    assert lines["1072_IEO_ANG_HI"] == {
        "utterance_id": "1072_IEO_ANG_HI", "speaker_id": "1072", "wav_path": "../crema/AudioWAV/1072_IEO_ANG_HI.wav",
        "transcript": "It's eleven o'clock", "emotion": "angry", "source_label": "ANG", "sentence_id": "IEO",
        "level": "high",
    }  # fmt: skip


def test_the_silent_file_and_other_names_are_reported(tmp_path: Path) -> None:
    found = findings(run_import("crema-d", make(tmp_path / "crema"), folds=3))
    assert found["known_fault"] == "1076_MTI_SAD_XX is known to be silent"
    assert found["other_files"] == "1 files have names of another form and are left out"
    assert found["label_in_id"].startswith("the label is in 37 of 37 utterance ids")
    assert "transcripts of test are in train too" in found["transcript_overlap"]
    assert {"intended_labels", "parallel_sentences", "other_count"} <= set(found)


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "crema" / "03-01-01.wav")
    with pytest.raises(InputError, match="must have files such as 1001_DFA_ANG_XX.wav, found none"):
        run_import("crema-d", tmp_path / "crema")
