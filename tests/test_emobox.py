"""EmoBox: its folds and label map, speakers from the .stm file, valid splits where it has none."""

import json
from pathlib import Path

import pytest
from tiny_corpora import findings, folds, run_import, splits, touch, write

from features.errors import InputError

CODES = ("c", "j")


def make(root: Path, num_folds: int = 3, per_speaker: int = 2) -> Path:
    """Write folds that leave one speaker out, and a single one with the last two speakers as test."""
    source, keys, stm = root / "data" / "cafe", {}, ""
    speakers = [f"{number:02d}" for number in range(1, max(num_folds, 7) + 1)] if num_folds == 1 else ["01", "02", "03"]
    for speaker in speakers:
        for number in range(per_speaker):
            key = f"cafe-{speaker}-{number}"
            wav = f"downloads/cafe/{speaker}-{number}.wav"
            keys[key] = {
                "key": key,
                "dataset": "cafe",
                "wav": wav,
                "emo": CODES[number % 2],
                "channel": 1,
                "length": 0.1,
            }
            stm += f"{key} 1 {speaker} 0 0.1 <id={key},lang=en,spk={speaker},emotion=c> c\n"
            touch(root / wav)
    for fold in range(1, num_folds + 1):
        held_out = ("06", "07") if num_folds == 1 else (speakers[fold - 1],)
        for split in ("train", "test"):
            lines = [json.dumps(entry) for key, entry in keys.items() if (key[5:7] in held_out) == (split == "test")]
            write(source / f"fold_{fold}" / f"cafe_{split}_fold_{fold}.jsonl", "\n".join(lines) + "\n")
    write(source / "label_map.json", json.dumps({"c": "Angry", "j": "Happy"}))
    write(source / "data.seg.wrd.stm", stm)
    return source


def test_folds_are_kept_and_the_next_test_split_becomes_valid(tmp_path: Path) -> None:
    result = run_import("emobox", make(tmp_path))
    assert folds(result) == [
        {"train": ["cafe-03-0", "cafe-03-1"], "valid": ["cafe-02-0", "cafe-02-1"], "test": ["cafe-01-0", "cafe-01-1"]},
        {"train": ["cafe-01-0", "cafe-01-1"], "valid": ["cafe-03-0", "cafe-03-1"], "test": ["cafe-02-0", "cafe-02-1"]},
        {"train": ["cafe-02-0", "cafe-02-1"], "valid": ["cafe-01-0", "cafe-01-1"], "test": ["cafe-03-0", "cafe-03-1"]},
    ]
    assert splits(result)["test"][1] == {
        "utterance_id": "cafe-01-1", "speaker_id": "01", "wav_path": "../../downloads/cafe/01-1.wav",
        "transcript": None, "emotion": "happy", "source_label": "j",
    }  # fmt: skip
    assert "test split of the next fold became it" in findings(result)["valid_made"]


def test_a_single_fold_takes_valid_from_speakers_of_train(tmp_path: Path) -> None:
    result = run_import("emobox", make(tmp_path, num_folds=1))
    assert result.speakers == {"train": 4, "valid": 1, "test": 2}
    assert findings(result)["valid_made"].endswith("2 utterances of train, with all of their speakers, became it")


def test_a_fold_with_a_valid_split_keeps_it(tmp_path: Path) -> None:
    source = make(tmp_path)
    train = source / "fold_2" / "cafe_train_fold_2.jsonl"
    lines = train.read_text().splitlines(keepends=True)
    write(train, "".join(lines[:2]))
    write(source / "fold_2" / "cafe_valid_fold_2.jsonl", "".join([*lines[2:], lines[2]]))
    result = run_import("emobox", source)
    assert folds(result)[1] == {
        "train": ["cafe-01-0", "cafe-01-1"], "valid": ["cafe-03-0", "cafe-03-1"], "test": ["cafe-02-0", "cafe-02-1"],
    }  # fmt: skip
    found = findings(result)
    assert "no valid split here in 2 of 3 folds" in found["valid_made"]
    assert found["duplicate_id"] == "1 ids occur again in valid of fold 2"
    (tmp_path / "data" / "data").rename(tmp_path / "before")
    write(train, "".join(lines[:3]))
    with pytest.raises(InputError, match="must be in one split of a fold, found in two in fold 2: cafe-03-0"):
        run_import("emobox", source)


def test_without_speakers_a_pattern_is_asked_for_and_used(tmp_path: Path) -> None:
    source = make(tmp_path, num_folds=1)
    (source / "data.seg.wrd.stm").unlink()
    with pytest.raises(InputError, match="known speaker to be divided, found none; give .*--speaker-pattern"):
        run_import("emobox", source)
    assert run_import("emobox", source, speaker_pattern=r"cafe-(\d+)-").speakers == {"train": 4, "valid": 1, "test": 2}


def test_damaged_folds_are_named(tmp_path: Path) -> None:
    source = make(tmp_path)
    path = source / "fold_2" / "cafe_train_fold_2.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(lines[0].replace('"emo": "c"', '"emo": "j"') + "\n")
    with pytest.raises(InputError, match=r"fold_2.jsonl:1: cafe-01-0 differs from its line in another file"):
        run_import("emobox", source)
    path.write_text(lines[0].replace('"cafe-01-0"', "null") + "\n")
    with pytest.raises(InputError, match="fold_2.jsonl:1: must have key, wav, emo, but lacks key"):
        run_import("emobox", source)
    path.write_text('{"key": "a"}\n')
    with pytest.raises(InputError, match=r"fold_2.jsonl:1: must have key, wav, emo, but lacks wav, emo"):
        run_import("emobox", source)
    path.unlink()
    with pytest.raises(InputError, match="fold_2 must have a train file"):
        run_import("emobox", source)
    (source / "fold_2").rename(source / "fold_9")
    with pytest.raises(InputError, match=r"must have the folders fold_1 to fold_K, found \[1, 3, 9\]"):
        run_import("emobox", source)
    (source / "fold_9").rename(source / "fold_2")
    write(source / "label_map.json", '{"c": null}')
    with pytest.raises(InputError, match=r"label_map.json: each label must be a word, found None for 'c'"):
        run_import("emobox", source)
