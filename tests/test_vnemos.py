"""VNEMOS: films that are in two splits, speakers that are file names, labels in ids, empty transcripts."""

from pathlib import Path

import pytest
from tiny import write_manifest
from tiny_corpora import findings, labels, run_import, splits, touch

from features.corpora.vnemos import film_of
from features.errors import UsageError

SPLITS = {
    "train": [
        ("bo_gia_angry_seg1", "angry"), ("bo_gia_seg2", "happiness"), ("mat_biec_3", "neutral"),
        ("hai_phuong_4", "neutral"),
    ],
    "valid": [("bo_gia_seg5", "happiness"), ("em_va_trinh_1", "neutral")],
    "test": [("mat_biec_7", "neutral"), ("ke_an_danh_angry1", "angry"), ("rom_1", "happiness")],
}  # fmt: skip


def make(root: Path) -> Path:
    for split, utterances in SPLITS.items():
        lines = []
        for name, emotion in utterances:
            touch(root / "wav" / emotion / f"{name}.wav")
            transcript = "" if emotion == "angry" else f"lời của {name}"
            lines.append(
                {
                    "utterance_id": name, "speaker_id": f"{name}.wav", "wav_path": f"wav\\{emotion}\\{name}.wav",
                    "start": 0.0, "end": 0.1, "transcript": transcript, "emotion": emotion,
                }
            )  # fmt: skip
        (root / "output").mkdir(parents=True, exist_ok=True)
        write_manifest(root / "output" / f"{split}.jsonl", lines)
    return root / "output"


def test_the_official_splits_are_kept_and_their_faults_are_reported(tmp_path: Path) -> None:
    result = run_import("vnemos", make(tmp_path))
    renamed = {"happiness": "happy"}
    expected = {}
    for split, utterances in SPLITS.items():
        expected[split] = {name: renamed.get(emotion, emotion) for name, emotion in utterances}
    assert labels(result) == expected
    assert splits(result)["valid"][0] == {
        "utterance_id": "bo_gia_seg5", "speaker_id": None, "wav_path": "../wav/happiness/bo_gia_seg5.wav",
        "transcript": "lời của bo_gia_seg5", "emotion": "happy", "source_label": "happiness", "end": 0.1,
        "film": "bo_gia",
    }  # fmt: skip
    found = findings(result)
    assert found["speaker_is_utterance"] == "9 speakers are names of files: they count as unknown"
    assert found["film_overlap"] == ("1 of 3 films of test are in train or valid; 1 of 2 films of valid are in train")
    assert found["empty_transcript_by_class"].startswith("2 transcripts are empty: 2 angry; none of happy, neutral")
    assert found["label_in_id"].startswith("the label is in 2 of 9 utterance ids")
    assert found["other_count"] == "the published corpus has 250 utterances, found 9"


@pytest.mark.parametrize(
    ("utterance_id", "label", "film"),
    [
        ("bo_gia_angry_seg1", "angry", "bo_gia"), ("bo gia-seg 12", "angry", "bo gia"),
        ("mat_biec (3)", "sad", "mat_biec"), ("rom", None, "rom"),
        ("bo_gia_happiness2", "happiness", "bo_gia"), ("happy_bo_gia_2", "happiness", "bo_gia"),
        ("angrybirds_1", "angry", "angrybirds"), ("angry_1", "angry", "angry"), ("tuc gian_rom_1", "angry", "rom"),
        ("mat_biec_vui_7", "sad", "mat_biec_vui"),
    ],
)  # fmt: skip
def test_the_film_of_an_id_has_no_segment_and_no_label(utterance_id: str, label: str | None, film: str) -> None:
    assert film_of(utterance_id, label) == film


def test_folds_by_film_have_no_film_in_common(tmp_path: Path) -> None:
    result = run_import("vnemos", make(tmp_path), protocol="groups", folds=3)
    films = {split: {line["film"] for line in lines} for split, lines in splits(result).items()}
    assert not (films["train"] | films["valid"]) & films["test"] and not films["train"] & films["valid"]
    assert "film_overlap" not in findings(result)


def test_audio_that_is_nowhere_asks_for_its_folder(tmp_path: Path) -> None:
    source = make(tmp_path)
    (tmp_path / "wav").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="found no file such as .*bo_gia_angry_seg1.wav; give --audio-root"):
        run_import("vnemos", source)
    (tmp_path / "audio").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "audio" / "wav")
    assert sum(run_import("vnemos", source, audio_root=tmp_path / "audio").utterances.values()) == 9
