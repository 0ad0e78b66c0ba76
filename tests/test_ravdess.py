"""RAVDESS: speech or song, folds by actor, the second copy of the archives."""

from pathlib import Path

import pytest
from tiny_corpora import TONE, audio_bytes, findings, folds, run_import, splits, touch

from features.errors import InputError


def make(root: Path) -> Path:
    for actor in range(1, 5):
        for emotion in ("01", "05"):
            touch(root / f"Actor_{actor:02d}" / f"03-01-{emotion}-01-02-01-{actor:02d}.wav")
        touch(root / f"Actor_{actor:02d}" / f"03-02-03-01-01-01-{actor:02d}.wav")
    touch(root / "audio_speech_actors_01-24" / "Actor_01" / "03-01-05-01-02-01-01.wav", TONE)
    touch(root / "Actor_02" / "03-01-05-02-01-02-03.wav")
    touch(root / "Actor_02" / "notes.wav")
    return root


def test_speech_is_imported_and_song_is_counted(tmp_path: Path) -> None:
    result = run_import("ravdess", make(tmp_path / "ravdess"), folds=4)
    assert sum(result.utterances.values()) == 9 and len(folds(result)) == 4
    assert result.labels == {"angry": {"05": 5}, "neutral": {"01": 4}}
    assert {reason: len(names) for reason, names in result.left_out.items()} == {"not speech": 4}
    lines = {line["utterance_id"]: line for part in splits(result).values() for line in part}
    assert lines["03-01-05-02-01-02-03"] == {
        "utterance_id": "03-01-05-02-01-02-03", "speaker_id": "03",
        "wav_path": "../ravdess/Actor_02/03-01-05-02-01-02-03.wav", "transcript": "Kids are talking by the door",
        "emotion": "angry", "source_label": "05", "vocal": "speech", "intensity": "strong", "sentence_id": "01",
        "repetition": 2, "gender": "male",
    }  # fmt: skip
    found = findings(result)
    assert found["duplicate_id"] == "1 ids occur again with the same audio and label"
    assert found["wrong_folder"].startswith("1 files are in the folder of another actor")
    assert found["other_files"].startswith("1 files") and "1440 utterances of speech, found 9" in found["other_count"]


def test_song_and_speech_have_no_id_in_common(tmp_path: Path) -> None:
    result = run_import("ravdess", make(tmp_path / "ravdess"), folds=3, vocal="all")
    assert sum(result.utterances.values()) == 13 and result.left_out == {}
    expected = "has 2452 utterances of speech and song, found 13; the published corpus has 24 actors, found 4"
    assert findings(result)["other_count"].endswith(expected)


def test_a_second_copy_with_other_audio_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "ravdess")
    touch(source / "audio_speech_actors_01-24" / "Actor_01" / "03-01-05-01-02-01-01.wav", audio_bytes(7))
    with pytest.raises(InputError, match=r"one audio, label, .* and split, found '03-01-05-01-02-01-01' for"):
        run_import("ravdess", source)
