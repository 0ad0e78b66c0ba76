"""Fold files: what two splits of a fold share is found, although the manifests are sound."""

import json
from pathlib import Path
from typing import Any

import pytest
from faulty_corpus import PER_SPEAKER, Planted, clean_corpus

from features.audit.check import check_corpus
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
    assert check_corpus(made.corpus(), tmp_path).findings == []
    bad = {split: list(ids) for split, ids in good.items()}
    bad["train"].remove("u0000")
    bad["test"].append("u0000")
    write(tmp_path, good, bad, bad)
    (finding,) = check_corpus(made.corpus(), tmp_path).findings
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
    found = check_corpus(made.corpus(), tmp_path).findings
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
        in check_corpus(made.corpus(), tmp_path).remarks
    )
    (tmp_path / "folds-9.json").write_text("{}")
    with pytest.raises(InputError, match=r"folds-9.json must be of the form"):
        check_corpus(made.corpus(), tmp_path)
