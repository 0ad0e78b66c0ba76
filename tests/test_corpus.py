"""The demo corpus: the cause of each label set is exact, and the files depend only on the seed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from features.config import SPLITS
from features.errors import InputError
from features.manifests.manifest import Utterance, read_manifests
from mervn.demo import corpus
from mervn.demo.corpus import (
    DIALECTS,
    LABELS,
    PARAMETERS,
    ROOM_NOISE,
    SPEAKERS,
    CorpusSummary,
    PlannedUtterance,
    make_corpus,
    plan,
)
from mervn.demo.espeak import SAMPLE_RATE, speak

Manifests = dict[str, dict[str, list[Utterance]]]
SEEDS = (0, 1, 2)
CASES = [(split, seed) for split in SPLITS for seed in SEEDS]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two speakers per split, the first of them with one long recording, and eight sentences per pass."""
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> CorpusSummary:
    """The small corpus of seed 0; tests leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return make_corpus(tmp_path_factory.mktemp("made") / "demo")


def shrink(patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    patch.setattr(corpus, "SPEAKERS", {split: SPEAKERS[split][:2] for split in SPLITS})
    patch.setattr(corpus, "TEMPLATES_PER_PASS", dict.fromkeys(SPLITS, 4))


def read_all(path: Path) -> Manifests:
    return {label_set: read_manifests(path / label_set, SPLITS) for label_set in LABELS}


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_labels(planned: list[PlannedUtterance], label_set: str, *properties: str) -> Counter[tuple[Any, ...]]:
    """Count utterances by the given properties and the label; a label without utterances counts as 0."""
    kinds = {
        "speaker": lambda utterance: utterance.speaker_id,
        "sentence": lambda utterance: utterance.sentence.sentence_id,
        "words": lambda utterance: utterance.sentence.positive,
        "prosody": lambda utterance: utterance.excited,
    }
    cells: Counter[tuple[Any, ...]] = Counter()
    for utterance in planned:
        key = tuple(kinds[name](utterance) for name in properties)
        for label in LABELS[label_set]:
            cells[(*key, label)] += utterance.emotion(label_set) == label
    return cells


def is_balanced(cells: Counter[tuple[Any, ...]], label_set: str) -> bool:
    first, second = LABELS[label_set]
    return all(cells[(*key, first)] == cells[(*key, second)] for *key, _ in cells)


def test_splits_have_their_sizes() -> None:
    assert {split: len(plan(split, 0)) for split in SPLITS} == {"train": 400, "valid": 160, "test": 240}


def test_speakers_and_their_variants_belong_to_one_split() -> None:
    everyone = list(chain.from_iterable(SPEAKERS[split] for split in SPLITS))
    assert len(set(everyone)) == len(everyone) >= 18
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for speaker in SPEAKERS[split]:
            splits_of[speaker.split("-")[1]].add(split)
    assert all(len(found) == 1 for found in splits_of.values())
    for split in SPLITS:
        assert {speaker.split("-")[0] for speaker in SPEAKERS[split]} == set(DIALECTS)
        assert {utterance.speaker_id for utterance in plan(split, 0)} == set(SPEAKERS[split])


@pytest.mark.parametrize(("split", "seed"), CASES)
@pytest.mark.parametrize("label_set", LABELS)
def test_every_label_set_is_balanced_for_every_speaker(label_set: str, split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, label_set), label_set)
    assert is_balanced(count_labels(planned, label_set, "speaker"), label_set)


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_the_other_cause_does_not_predict_the_label(split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, "audio", "speaker", "words"), "audio")
    assert is_balanced(count_labels(planned, "audio", "sentence"), "audio")
    assert is_balanced(count_labels(planned, "text", "speaker", "prosody"), "text")
    assert not is_balanced(count_labels(planned, "audio", "prosody"), "audio")
    assert not is_balanced(count_labels(planned, "text", "words"), "text")


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_the_labels_of_both_need_words_and_prosody_together(split: str, seed: int) -> None:
    planned = plan(split, seed)
    for side in ("words", "prosody"):
        assert is_balanced(count_labels(planned, "both", "speaker", side), "both")
    assert is_balanced(count_labels(planned, "both", "sentence"), "both")
    cells = count_labels(planned, "both", "words", "prosody")
    assert sorted(count for count in cells.values()) == [0] * 4 + [len(planned) // 4] * 4


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_nothing_predicts_the_labels_of_none(split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, "none", "speaker", "words", "prosody"), "none")
    assert is_balanced(count_labels(planned, "none", "sentence"), "none")


def parameters_of(utterance: PlannedUtterance, *names: str) -> list[float]:
    return [getattr(utterance.prosody, name) for name in names]


def test_the_prosody_classes_overlap_a_little_and_volume_alone_is_not_enough() -> None:
    def score(*names: str) -> float:
        """Return the accuracy of the nearest class mean in standardised parameters, fitted on the utterances."""
        values = np.array([parameters_of(utterance, *names) for utterance in planned], dtype=np.float64)
        values = (values - values.mean(0)) / values.std(0)
        excited = np.array([utterance.excited for utterance in planned])
        means = [values[excited == side].mean(0) for side in (False, True)]
        nearer = ((values - means[1]) ** 2).sum(1) < ((values - means[0]) ** 2).sum(1)
        return float((nearer == excited).mean())

    planned = list(chain.from_iterable(plan(split, seed) for split, seed in CASES))
    assert 0.95 <= score(*PARAMETERS) <= 0.99
    assert score("volume") <= 0.88


def without_emotion(utterance: Utterance) -> tuple[Any, ...]:
    u = utterance
    return u.utterance_id, u.speaker_id, u.wav_path, u.start, u.end, u.transcript, u.extra


def emotion_of(utterance: Utterance) -> str | None:
    return utterance.emotion


def test_the_sets_share_everything_but_the_emotion(demo: CorpusSummary) -> None:
    manifests = read_all(demo.path)
    for split in SPLITS:
        shared = [list(map(without_emotion, splits[split])) for splits in manifests.values()]
        assert all(utterances == shared[0] for utterances in shared)
        emotions = {tuple(map(emotion_of, splits[split])) for splits in manifests.values()}
        assert len(emotions) == len(LABELS)
        assert all(unicodedata.is_normalized("NFC", u.transcript or "") for u in manifests["audio"][split])


def test_audio_is_what_the_manifest_says_to_the_sample(demo: CorpusSummary) -> None:
    cut = 0
    for utterance in chain.from_iterable(read_manifests(demo.path / "audio", SPLITS).values()):
        dialect, variant = utterance.speaker_id.split("-")
        prosody = {name: utterance.extra[name] for name in PARAMETERS}
        clean = speak(str(utterance.transcript), f"{DIALECTS[dialect]}+{variant}", **prosody).astype(np.float64)
        samples, rate = soundfile.read(utterance.audio_path, dtype="int16")
        assert rate == SAMPLE_RATE
        if utterance.end is not None:
            cut += 1
            first, last = round(utterance.start * rate), round(utterance.end * rate)
            assert last - first == len(clean)
            samples, late = samples[first:last], samples[first + 1 : last + 1]
            assert (late - clean[: len(late)]).std() > 2 * ROOM_NOISE  # negative control: a shift by one sample shows
        assert (samples - clean).std() == pytest.approx(ROOM_NOISE, rel=0.1)
    assert cut == 8 + 2 * 16


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    demo: CorpusSummary, small: None, tmp_path: Path
) -> None:
    folders = [demo.path, *(make_corpus(tmp_path / name, seed).path for name, seed in (("b", 0), ("c", 4)))]
    first, again, other = map(read_bytes, folders)
    assert first == again
    assert all(first[f"audio/{split}.jsonl"] != other[f"audio/{split}.jsonl"] for split in SPLITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_the_same_corpus_is_reused_and_other_files_are_kept(small: None, tmp_path: Path) -> None:
    first = make_corpus(tmp_path, seed=0)  # an empty folder is accepted
    (tmp_path / "stores").mkdir()
    before = read_bytes(tmp_path)
    again = make_corpus(tmp_path, seed=0)
    assert (first.reused, again.reused) == (False, True)
    assert (first.utterances, first.hours) == (again.utterances, again.hours)
    assert first.hours > 0
    assert (tmp_path / "stores").is_dir()
    assert read_bytes(tmp_path) == before


def test_another_corpus_is_not_overwritten(demo: CorpusSummary, small: None, tmp_path: Path) -> None:
    shutil.copytree(demo.path, tmp_path / "demo")
    before = read_bytes(tmp_path)
    with pytest.raises(InputError, match=r"demo must be .* seed 1, found version \d+ of seed 0"):
        make_corpus(tmp_path / "demo", seed=1)
    assert read_bytes(tmp_path) == before


@pytest.mark.parametrize("marker", [None, "", "[]", json.dumps({"corpus": "another", "seed": 0})])
def test_a_folder_with_other_content_is_rejected_and_named(marker: str | None, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    if marker is not None:
        (tmp_path / "corpus.json").write_text(marker, "utf-8")
    before = read_bytes(tmp_path)
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))} must be missing, empty or the demo corpus"):
        make_corpus(tmp_path)
    assert read_bytes(tmp_path) == before


def test_a_failure_leaves_nothing_behind(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "DIALECTS", {"north": "vi", "central": "no-such-voice", "south": "vi"})
    monkeypatch.setattr(corpus, "SPEAKERS", {split: ["north-f1", "central-f1"] for split in SPLITS})
    with pytest.raises(InputError, match=r"accept voice 'no-such-voice\+f1', found error 2 \(not found\)"):
        make_corpus(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r'pip install "mervn\[demo\]"'):
        make_corpus(tmp_path / "demo")
