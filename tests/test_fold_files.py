"""Fold files: what two splits of a fold share is found, although the manifests are sound."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_corpus import (
    PER_SPEAKER,
    STRONG,
    Planted,
    clean_corpus,
    duplicate_audio,
    recording_overlap,
    speaker_overlap,
    transcript_overlap,
)

from features.audit.check import check_corpus
from features.audit.corpus import Corpus
from features.audit.fold_files import read_fold_files
from features.errors import InputError


def fold_ids(made: Planted, split_of_speaker: dict[str, str]) -> dict[str, list[str]]:
    """Return a fold in which speakers stand in other splits than in the manifests."""
    ids: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for utterance in made.utterances:
        split = split_of_speaker.get(str(utterance.speaker_id), utterance.split)
        ids[split].append(utterance.utterance_id)
    return ids


def write(folder: Path, *folds: Any) -> None:
    (folder / f"folds-{len(folds)}.json").write_text(json.dumps({"schema": 1, "folds": folds}))


@pytest.fixture
def made() -> Planted:
    """A corpus of which every sentence is different."""
    corpus = clean_corpus(0)
    for index in range(len(corpus.utterances)):
        corpus.change(index, transcript=f"câu {index}")
    return corpus


def test_a_speaker_in_two_splits_of_a_fold_is_found(made: Planted, tmp_path: Path) -> None:
    good = fold_ids(made, {"train-1": "test", "test-0": "train"})
    write(tmp_path, good, good)
    assert check_corpus(made.corpus(), read_fold_files(tmp_path)).findings == []
    bad = {split: list(ids) for split, ids in good.items()}
    bad["train"].remove("u0000")
    bad["test"].append("u0000")
    write(tmp_path, good, bad, bad)
    (finding,) = check_corpus(made.corpus(), read_fold_files(tmp_path)).findings
    assert finding.id == "speaker_overlap" and finding.severity == "error" and finding.count == 2
    assert finding.message.startswith("2 of 3 folds of folds-3.json, such as fold 2: 1 speaker in several splits")
    assert "train.jsonl:1" in finding.examples


def test_copies_within_a_split_of_the_manifests_can_be_in_two_splits_of_a_fold(made: Planted, tmp_path: Path) -> None:
    made.measure(0, sha256=made.facts[PER_SPEAKER].sha256)
    made.change(0, emotion=made.label(PER_SPEAKER))
    made.change(1, transcript=made.utterances[PER_SPEAKER + 1].transcript)
    (within,) = check_corpus(made.corpus()).findings
    assert within.severity == "warning"
    write(tmp_path, fold_ids(made, {"train-1": "test"}), fold_ids(made, {}))
    found = check_corpus(made.corpus(), read_fold_files(tmp_path)).findings
    assert [(one.id, one.severity, one.count) for one in found] == [
        ("duplicate_audio", "error", 1),
        ("duplicate_audio", "warning", 1),
        ("transcript_overlap", "info", 1),
    ]
    assert found[2].message.endswith("1 of 72 utterances of test repeat a sentence of train or valid")


def test_ids_without_a_manifest_are_said_and_other_files_are_refused(made: Planted, tmp_path: Path) -> None:
    ids = fold_ids(made, {})
    write(tmp_path, {**ids, "test": [*ids["test"], "no such id"]})
    assert (
        "folds-1.json names 1 ids that no manifest has, such as 'no such id'"
        in check_corpus(made.corpus(), read_fold_files(tmp_path)).remarks
    )
    (tmp_path / "folds-9.json").write_text("{}")
    with pytest.raises(InputError, match=r"folds-9.json must be of the form"):
        read_fold_files(tmp_path)


def test_a_fold_has_the_findings_of_manifests_with_its_splits(made: Planted, tmp_path: Path) -> None:
    """Columns that do not depend on the splits are taken over; the findings are those of a corpus made anew."""
    speaker_overlap(made, STRONG)
    transcript_overlap(made, STRONG)
    duplicate_audio(made, STRONG)
    recording_overlap(made, STRONG)
    fold = fold_ids(made, {"train-2": "valid", "test-1": "train"})
    fold["train"] = fold["train"][:-30]  # some utterances are in no fold
    split_of = {one: split for split, ids in fold.items() for one in ids}
    whole = made.corpus()
    assert len(whole.texts) == len(whole.files)  # computed before
    part = whole.in_splits(split_of)
    kept = [index for index, one in enumerate(made.utterances) if one.utterance_id in split_of]
    utterances = [replace(made.utterances[i], split=split_of[made.utterances[i].utterance_id]) for i in kept]
    anew = Corpus(utterances, [made.facts[i] for i in kept])
    assert part.texts == anew.texts and part.files.tolist() == anew.files.tolist()
    found = check_corpus(part).findings
    assert found == check_corpus(anew).findings and len(found) >= 4
