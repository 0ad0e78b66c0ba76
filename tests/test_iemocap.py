"""IEMOCAP: sessions left out, excited as happy, speakers of the speaking actor, its known traps."""

from pathlib import Path

import pytest
from tiny_corpora import findings, folds, labels, run_import, splits, touch, write

from features.errors import InputError, UsageError
from features.manifests.folds import find_folds, read_fold
from mervn.config import TrainHeadOptions
from mervn.study.recipe_checks import check_data
from mervn.study.recipes import Expects

LINES = [
    ("impro01", "F", "000", "neu"), ("impro01", "M", "000", "hap"), ("impro01", "F", "001", "exc"),
    ("impro01", "M", "001", "xxx"), ("script01_1", "F", "000", "ang"), ("script01_1", "M", "000", "sad"),
    ("script01_1", "M", "001", "fru"),
]  # fmt: skip


def make(root: Path) -> Path:
    for session in range(1, 6):
        base = root / f"Session{session}"
        for dialogue in ("impro01", "script01_1"):
            name = f"Ses{session:02d}F_{dialogue}"
            header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            text, lines = "", header
            for part, actor, number, code in LINES:
                if part == dialogue:
                    utterance = f"{name}_{actor}{number}"
                    lines += f"[6.29 - 8.23]\t{utterance}\t{code}\t[2.5000, 2.0000, 3.5000]\nC-E2:\tNeutral;\t()\n\n"
                    text += f"{utterance} [006.2901-008.2357]: Words of {session} {actor}{number}.\n"
                    touch(base / "sentences/wav" / name / f"{utterance}.wav")
            write(base / f"dialog/EmoEvaluation/{name}.txt", lines)
            write(base / f"dialog/transcriptions/{name}.txt", text + "M: Overlapping speech.\n")
            write(base / f"dialog/EmoEvaluation/._{name}.txt", "\x00")
    return root


def test_four_classes_are_left_one_session_out(tmp_path: Path) -> None:
    result = run_import("iemocap", make(tmp_path / "iemocap"), classes="4")
    assert result.utterances == {"train": 15, "valid": 5, "test": 5} and result.num_folds == 5
    assert result.labels == {
        "angry": {"ang": 5},
        "happy": {"exc": 5, "hap": 5},
        "neutral": {"neu": 5},
        "sad": {"sad": 5},
    }
    for number, fold in enumerate(folds(result), 1):
        sessions = {split: sorted({int(name[3:5]) for name in names}) for split, names in fold.items()}
        valid = number % 5 + 1
        assert sessions == {"test": [number], "valid": [valid], "train": sorted({1, 2, 3, 4, 5} - {number, valid})}
    line = splits(result)["test"][1]
    assert line == {
        "utterance_id": "Ses01F_impro01_M000", "speaker_id": "Ses01M", "transcript": "Words of 1 M000.",
        "wav_path": "../iemocap/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav",
        "emotion": "happy", "source_label": "hap", "session": 1, "dialogue": "Ses01F_impro01", "scripted": False,
        "valence": 2.5, "activation": 2.0, "dominance": 3.5,
    }  # fmt: skip
    reasons = {reason: len(names) for reason, names in result.left_out.items()}
    assert reasons == {"without agreement of the raters (xxx)": 5, "not one of the 4 classes (fru)": 5}
    found = findings(result)
    assert set(found) == {"hidden_files", "other_count", "scripted_dialogues"}
    assert found["other_count"] == "the published corpus has 5531 utterances of 4 classes, found 25"
    assert found["hidden_files"].startswith("10 files")


def test_the_folds_are_read_as_those_of_any_corpus(tmp_path: Path) -> None:
    result = run_import("iemocap", make(tmp_path / "iemocap"), classes="4")
    read, _ = read_fold(result.path, find_folds(result.path, None), 3, ("train", "valid", "test"), None)
    assert {each.extra["session"] for each in read["test"]} == {3}
    assert all(each.audio_path.is_file() for part in read.values() for each in part)


def test_all_labels_keep_excited_apart(tmp_path: Path) -> None:
    result = run_import("iemocap", make(tmp_path / "iemocap"), classes="all")
    assert set(result.labels) == {"angry", "excited", "frustrated", "happy", "neutral", "sad"}
    assert labels(result)["test"]["Ses01F_impro01_F001"] == "excited"
    assert findings(result)["other_count"] == "the published corpus has 10039 utterances, found 35"


def test_missing_audio_and_transcripts_are_reported_and_the_rest_is_imported(tmp_path: Path) -> None:
    source = make(tmp_path / "iemocap")
    (source / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_F000.wav").unlink()
    (source / "Session3/dialog/transcriptions/Ses03F_script01_1.txt").unlink()
    damaged = source / "Session4/dialog/EmoEvaluation/Ses04F_impro01.txt"
    damaged.write_text(damaged.read_text().replace("\tneu\t[2.5000, 2.0000", "\tneu\t[2.5000"))
    result = run_import("iemocap", source, classes="4")
    assert result.left_out["without an audio file"] == ["Ses02F_impro01_F000"]
    assert all("Ses02F_impro01_F000" not in names for fold in folds(result) for names in fold.values())
    found = findings(result)
    assert found["other_lines"] == "1 lines of Ses04F_impro01.txt are not: times, id, label, ratings"
    assert found["no_transcripts_of_dialogue"] == "Ses03F_script01_1 has no file of transcripts"
    assert found["empty_transcript_by_class"].startswith(
        "2 transcripts are empty: 1 angry, 1 sad; none of happy, neutral"
    )


def test_what_is_ambiguous_or_incomplete_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "iemocap")
    with pytest.raises(UsageError, match=r"--classes 4 \(angry"):
        run_import("iemocap", source)
    (source / "Session4").rename(source / "other")
    with pytest.raises(InputError, match="must have Session1 to Session5 .* lacks .*Session4"):
        run_import("iemocap", source, classes="4")
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".data*"))


def test_the_recipes_of_iemocap_accept_what_is_written(tmp_path: Path) -> None:
    result = run_import("iemocap", make(tmp_path / "iemocap"), classes="4")
    expects = {
        "utterances": 25, "labels": 4, "speakers": 10, "folds": 5, "fold-key": "session", "fold-speakers": 2,
        "disjoint-speakers": True,
    }  # fmt: skip
    found = check_data(Expects.model_validate(expects), TrainHeadOptions(), result.path, range(1, 6), with_test=True)
    assert found.same_split == "yes", found.same_split
