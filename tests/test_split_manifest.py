"""The split of a manifest: it depends on the utterances only, and no group is in two splits."""

import hashlib
import json
import locale
import random
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tiny import Messages, wave, write_manifest

from features.errors import InputError, UsageError
from features.splitting.options import SplitOptions
from features.splitting.split_manifest import SplitPlan, plan_split

CLASSES = ("buồn", "giận", "vui")
PINNED = ["s0 s1 s8", "s12 s13 s5", "s10 s11 s4 s6", "s2 s3 s7 s9"]


def lines(num_speakers: int = 12, each: int = 6, **changes: Any) -> list[dict[str, Any]]:
    found = []
    for number in range(num_speakers * each):
        speaker, take = divmod(number, each)
        line = {"utterance_id": f"Đ{number:03d}", "speaker_id": f"s{speaker}", "wav_path": f"{number}.wav"}
        line |= {"emotion": CLASSES[(take * take + speaker) % 3], "dialect": ("bắc", "nam", "trung")[speaker % 3]}
        found.append({**line, "transcript": f"câu {number}", **changes})
    return found


def plan(
    folder: Path, written: list[dict[str, Any]], group: tuple[str, ...] = ("speaker_id",), **options: Any
) -> SplitPlan:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "all.jsonl", written)
    return plan_split(folder / "all.jsonl", SplitOptions(group=group, **options))


def digest(plan: SplitPlan) -> str:
    document = [plan.folds if plan.options.folds else None, plan.splits, plan.as_json()]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def test_the_split_depends_on_the_utterances_only(tmp_path: Path) -> None:
    written = lines()
    wanted = digest(plan(tmp_path, written, folds=4))
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "C")
        for seed in range(3):
            random.Random(seed).shuffle(written)
            assert digest(plan(tmp_path / f"other {seed}", written, folds=4)) == wanted
    finally:
        locale.setlocale(locale.LC_ALL, before)
    written[0]["emotion"] = "vui" if written[0]["emotion"] == "giận" else "giận"
    assert digest(plan(tmp_path, written, folds=4)) != wanted


def test_other_names_of_the_audio_files_have_no_effect(tmp_path: Path) -> None:
    found = []
    for folder, name in (("a", "{}"), ("b", "renamed {}")):
        written = lines(9, 4)
        for number, line in enumerate(written):
            speaker = number // 4
            line["wav_path"] = f"wav/{name.format(speaker if speaker else 100)}.wav"  # speakers 8 and 0 share a clip
            (tmp_path / folder / "wav").mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / folder / line["wav_path"], wave(0.02, speaker % 8), 16_000)
        found.append(plan(tmp_path / folder, written, group=("speaker_id", "recording", "audio"), folds=3))
    assert found[0].folds == found[1].folds and len(found[0].groups) == 8
    assert sum({"s0", "s8"} <= set(part.count("speaker_id")) for part in found[0].parts) == 1


def test_utterances_that_may_be_of_one_speaker_are_reported(tmp_path: Path) -> None:
    written = lines(8, 3)
    for line in written[:5]:
        line["speaker_id"] = None
    said: list[str] = []
    write_manifest(tmp_path / "all.jsonl", written)
    plan_split(tmp_path / "all.jsonl", SplitOptions(group=("speaker_id",)), Messages(said))
    assert said == ["warning: 5 of 24 utterances have no speaker_id; those of one speaker_id may be in several splits"]
    write_manifest(tmp_path / "all.jsonl", [{**line, "speaker_id": line["utterance_id"]} for line in lines(8, 3)])
    plan_split(tmp_path / "all.jsonl", SplitOptions(group=("speaker_id",)), Messages(said))
    assert "there are as many speakers as utterances" in said[1] and len(said) == 2


def test_the_split_of_a_corpus_is_the_same_on_every_machine(tmp_path: Path) -> None:
    irregular = [line for number, line in enumerate(lines(14, 8)) if number * number % 7 != 2]
    found = plan(tmp_path, irregular, folds=4, balance="dialect").parts
    # computed once: another result means that users get another split of the same corpus
    assert [" ".join(sorted(part.count("speaker_id"))) for part in found] == PINNED


def speakers(ids: list[str], written: list[dict[str, Any]], key: str = "speaker_id") -> set[str]:
    return {line[key] for line in written if line["utterance_id"] in ids}


@pytest.mark.parametrize("options", [{"folds": 4}, {"folds": 3, "balance": "dialect"}, {"valid": 0.25, "test": 0.25}])
def test_no_group_is_in_two_splits_and_every_class_is_in_each(tmp_path: Path, options: dict[str, Any]) -> None:
    written = lines()
    written[6]["session"] = written[13]["session"] = "joined"  # two speakers
    found = plan(tmp_path, written, group=("speaker_id", "session"), **options)
    for fold in found.folds if found.options.folds else [found.splits]:
        parts = [fold[split] for split in ("train", "valid", "test")]
        assert sorted(name for ids in parts for name in ids) == sorted(line["utterance_id"] for line in written)
        names = [speakers(ids, written) for ids in parts]
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
        assert all(speakers(ids, written, "emotion") == set(CLASSES) for ids in parts)
        assert sum({"s1", "s2"} <= each for each in names) == 1
    tested = [name for fold in found.folds for name in fold["test"]]
    assert not found.options.folds or sorted(tested) == sorted(line["utterance_id"] for line in written)


def test_the_value_of_a_key_is_balanced(tmp_path: Path) -> None:
    written = lines(num_speakers=12)
    for line in written:
        line["gender"] = "f" if int(line["speaker_id"][1:]) < 3 else "m"
    found = plan(tmp_path, written, folds=3, balance="gender")
    assert [part.count("gender") for part in found.parts] == [{"f": 6, "m": 18}] * 3
    parts = plan(tmp_path, written, folds=3).as_json()["parts"]
    assert list(parts) == ["fold 1", "fold 2", "fold 3"] and "balance" not in parts["fold 1"]
    assert found.as_json()["parts"]["fold 1"]["balance"] == {"f": 6, "m": 18}


def test_speakers_and_their_effective_number_are_counted(tmp_path: Path) -> None:
    written = lines(num_speakers=6, each=6)
    for line in written[:18]:
        line["speaker_id"] = "large"
    written[-1]["speaker_id"] = None
    part = plan(tmp_path, written, valid=0.3, test=0.3).as_json()["parts"]["train"]
    assert part["speakers"] == 1 and part["effective_speakers"] == 1.0 and part["utterances"] == 18
    all_parts = plan(tmp_path, written, valid=0.3, test=0.3).as_json()["parts"].values()
    assert sorted(each["unknown_speaker"] for each in all_parts) == [0, 0, 1]


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        (lines(4), {"folds": 5}, "4 groups that share speaker_id.*'giận' is in 3 groups .*5 are needed"),
        (lines(2), {}, "train, valid and test must hold every class.*'vui' is in 1 group .*possible: more speakers"),
        ([*lines(), {**lines()[0], "utterance_id": "z", "emotion": "sợ"}], {},
         "'sợ' is in 1 group .of z., and 3 are needed.*merge 'sợ' with another class"),
        (lines(6), {"folds": 5}, "'buồn' is in 4 groups .*5 are needed.*possible: --folds 3"),
        (lines(speaker_id="one"), {"group": ("speaker_id", "dialect")}, "form 1 groups.*72 with Đ000.*fewer keys"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_refused_with_what_is_possible(
    tmp_path: Path, written: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        plan(tmp_path, written, **options)


def test_other_files_and_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--balance gender: at least one utterance"):
        plan(tmp_path, lines(), balance="gender")
    with pytest.raises(UsageError, match=r"must be a file \.jsonl, found"):
        plan_split(tmp_path / "all.csv", SplitOptions())
    with pytest.raises(InputError, match="emotion is missing"):
        plan(tmp_path, lines(emotion=None))
    with pytest.raises(ValueError, match="--folds excludes --valid and --test"):
        SplitOptions(folds=5, test=0.2)
    with pytest.raises(ValueError, match="must leave utterances for train"):
        SplitOptions(valid=0.5, test=0.5)
