"""The demo corpus: what decides each label set is exact, and its files are a function of the seed."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from features.config import SPLITS
from features.errors import InputError
from features.manifests.manifest import Utterance, read_manifests
from mervn.demo import corpus
from mervn.demo.corpus import DIALECTS, LABELS, PARAMETERS, ROOM_NOISE, SPEAKERS, Planned, make_corpus, plan
from mervn.demo.espeak import SAMPLE_RATE, speak
from mervn.demo.sentences import CUES, FRAMES, sentences

Manifests = dict[str, dict[str, list[Utterance]]]
SEEDS = (0, 1, 2)
CASES = [(split, seed) for split in SPLITS for seed in SEEDS]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two speakers a split, the first of them one long recording, and eight sentences a pass."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(corpus, "SPEAKERS", {split: SPEAKERS[split][:2] for split in SPLITS})
    monkeypatch.setattr(corpus, "FRAMES_PER_PASS", dict.fromkeys(SPLITS, 4))


def read_all(path: Path) -> Manifests:
    return {label_set: read_manifests(path / label_set, SPLITS) for label_set in LABELS}


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_labels(planned: list[Planned], label_set: str, *sides: str) -> Counter[tuple[Any, ...]]:
    """Count utterances by what `sides` name and the label; a missing label is counted as 0."""
    kinds = {
        "speaker": lambda utterance: utterance.speaker_id,
        "sentence": lambda utterance: utterance.sentence.sentence_id,
        "words": lambda utterance: utterance.sentence.positive,
        "prosody": lambda utterance: utterance.excited,
    }
    cells: Counter[tuple[Any, ...]] = Counter()
    for utterance in planned:
        key = tuple(kinds[side](utterance) for side in sides)
        for label in LABELS[label_set]:
            cells[(*key, label)] += utterance.emotion(label_set) == label
    return cells


def is_balanced(cells: Counter[tuple[Any, ...]], label_set: str) -> bool:
    first, second = LABELS[label_set]
    return all(cells[(*key, first)] == cells[(*key, second)] for *key, _ in cells)


def test_splits_have_their_sizes() -> None:
    assert {split: len(plan(split, 0)) for split in SPLITS} == {"train": 400, "valid": 160, "test": 240}


def test_speakers_and_their_variants_belong_to_one_split() -> None:
    variants = {split: {speaker.split("-")[1] for speaker in SPEAKERS[split]} for split in SPLITS}
    everyone = [speaker for split in SPLITS for speaker in SPEAKERS[split]]
    assert len(set(everyone)) == len(everyone) >= 18
    assert sum(map(len, variants.values())) == len(set().union(*variants.values()))
    for split in SPLITS:
        assert {speaker.split("-")[0] for speaker in SPEAKERS[split]} == set(DIALECTS)
        assert {utterance.speaker_id for utterance in plan(split, 0)} == set(SPEAKERS[split])


def test_sentences_belong_to_one_split_and_are_nfc() -> None:
    texts = [sentence.text for split in SPLITS for sentence in sentences(split)]
    assert len(set(texts)) == len(texts) >= 72
    for text in texts:
        assert unicodedata.is_normalized("NFC", text)
        assert 6 <= len(text.split()) <= 14
    for split in SPLITS:
        planned = {utterance.sentence for utterance in plan(split, 0)}
        assert planned == set(sentences(split))


def test_cues_decide_the_word_class_and_occur_in_every_split() -> None:
    cues = {cue: positive for pair in CUES.values() for cue, positive in zip(pair, (True, False), strict=True)}
    for split in SPLITS:
        assert {sentence.cue for sentence in sentences(split)} == set(cues)
        for sentence in sentences(split):
            assert {cues[cue] for cue in cues if cue in sentence.text} == {sentence.positive}


def test_nothing_but_the_cue_tells_the_word_class() -> None:
    for split in SPLITS:
        rest = {True: Counter[str](), False: Counter[str]()}
        for sentence in sentences(split):
            rest[sentence.positive].update(sentence.text.replace(sentence.cue, "").split())
        assert rest[True] == rest[False]
        assert not any(
            syllable in frame.split()
            for pair in CUES.values()
            for cue in pair
            for syllable in cue.split()
            for _, frame in FRAMES[split]
        )


@pytest.mark.parametrize(("split", "seed"), CASES)
@pytest.mark.parametrize("label_set", LABELS)
def test_every_label_set_is_balanced_for_every_speaker(label_set: str, split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, label_set), label_set)
    assert is_balanced(count_labels(planned, label_set, "speaker"), label_set)


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_the_side_that_does_not_decide_says_nothing(split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, "audio", "speaker", "words"), "audio")
    assert is_balanced(count_labels(planned, "audio", "sentence"), "audio")
    assert is_balanced(count_labels(planned, "text", "speaker", "prosody"), "text")
    assert not is_balanced(count_labels(planned, "audio", "prosody"), "audio")
    assert not is_balanced(count_labels(planned, "text", "words"), "text")


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_both_is_decided_by_the_two_sides_together_and_by_neither_alone(split: str, seed: int) -> None:
    planned = plan(split, seed)
    for side in ("words", "prosody"):
        assert is_balanced(count_labels(planned, "both", "speaker", side), "both")
    assert is_balanced(count_labels(planned, "both", "sentence"), "both")
    cells = count_labels(planned, "both", "words", "prosody")
    assert sorted(count for count in cells.values()) == [0] * 4 + [len(planned) // 4] * 4


@pytest.mark.parametrize(("split", "seed"), CASES)
def test_none_is_decided_by_nothing(split: str, seed: int) -> None:
    planned = plan(split, seed)
    assert is_balanced(count_labels(planned, "none", "speaker", "words", "prosody"), "none")
    assert is_balanced(count_labels(planned, "none", "sentence"), "none")


def test_the_prosody_classes_overlap_a_little_and_volume_alone_decides_nothing() -> None:
    def score(*names: str) -> float:
        """Return the accuracy of the nearest class mean in standardised parameters, fitted on the utterances."""
        values = np.array([[getattr(u.prosody, name) for name in names] for u in planned], dtype=np.float64)
        values = (values - values.mean(0)) / values.std(0)
        excited = np.array([utterance.excited for utterance in planned])
        means = [values[excited == side].mean(0) for side in (False, True)]
        nearer = ((values - means[1]) ** 2).sum(1) < ((values - means[0]) ** 2).sum(1)
        return float((nearer == excited).mean())

    planned = [utterance for split, seed in CASES for utterance in plan(split, seed)]
    assert 0.95 <= score(*PARAMETERS) <= 0.99
    assert score("volume") <= 0.88


def test_the_sets_share_everything_but_the_emotion(small: None, tmp_path: Path) -> None:
    manifests = read_all(make_corpus(tmp_path / "demo").path)
    for split in SPLITS:
        shared = [
            [(u.utterance_id, u.speaker_id, u.wav_path, u.start, u.end, u.transcript, u.extra) for u in rows[split]]
            for rows in manifests.values()
        ]
        assert all(rows == shared[0] for rows in shared)
        emotions = {tuple(u.emotion for u in rows[split]) for rows in manifests.values()}
        assert len(emotions) == len(LABELS)
        assert all(unicodedata.is_normalized("NFC", u.transcript or "") for u in manifests["audio"][split])


def test_audio_is_what_the_manifest_says_to_the_sample(small: None, tmp_path: Path) -> None:
    make_corpus(tmp_path / "demo")
    cut = 0
    for utterance in (u for rows in read_manifests(tmp_path / "demo" / "audio", SPLITS).values() for u in rows):
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
            assert (late - clean[: len(late)]).std() > 2 * ROOM_NOISE  # one sample off is seen
        assert (samples - clean).std() == pytest.approx(ROOM_NOISE, rel=0.1)
    assert cut == 8 + 2 * 16


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small: None, tmp_path: Path) -> None:
    folders = [make_corpus(tmp_path / name, seed).path for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    first, again, other = map(read_bytes, folders)
    assert first == again
    assert all(first[f"audio/{split}.jsonl"] != other[f"audio/{split}.jsonl"] for split in SPLITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_same_corpus_is_reused_and_what_lies_beside_it_stays(small: None, tmp_path: Path) -> None:
    first = make_corpus(tmp_path, seed=0)  # an empty folder is taken
    (tmp_path / "stores").mkdir()
    before = read_bytes(tmp_path)
    again = make_corpus(tmp_path, seed=0)
    assert (first.reused, again.reused) == (False, True)
    assert (first.utterances, first.hours) == (again.utterances, again.hours)
    assert first.hours > 0
    assert (tmp_path / "stores").is_dir()
    assert read_bytes(tmp_path) == before


def test_another_corpus_is_not_overwritten(small: None, tmp_path: Path) -> None:
    make_corpus(tmp_path / "demo", seed=0)
    before = read_bytes(tmp_path)
    with pytest.raises(InputError, match=r"demo must be .* seed 1, found version \d+ of seed 0"):
        make_corpus(tmp_path / "demo", seed=1)
    assert read_bytes(tmp_path) == before


@pytest.mark.parametrize("marker", [None, "", "[]", json.dumps({"corpus": "another", "seed": 0})])
def test_a_foreign_folder_is_refused_and_named(marker: str | None, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    if marker is not None:
        (tmp_path / "corpus.json").write_text(marker, "utf-8")
    before = read_bytes(tmp_path)
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))} must be absent, empty or the demo corpus"):
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


def test_speech_does_not_depend_on_what_was_spoken_before() -> None:
    pytest.importorskip("espeakng_loader")
    voices = ["vi+m1", "vi-vn-x-south+f3", "vi-vn-x-central+m8", "vi+f5"]

    def say(voice: str, text: str = "Hôm nay trời đẹp") -> bytes:
        return speak(text, voice, pitch=50, rate=175, pitch_range=50, volume=100).tobytes()

    forwards = {voice: say(voice) for voice in voices}
    say("vi+f2", "Một câu khác hẳn")
    assert {voice: say(voice) for voice in reversed(voices)} == forwards
    assert len(set(forwards.values())) == len(voices)


def test_every_parameter_is_heard() -> None:
    pytest.importorskip("espeakng_loader")
    plain = {"pitch": 50, "rate": 175, "pitch_range": 50, "volume": 80, "word_gap": 0}
    changes = {"pitch": 80, "rate": 250, "pitch_range": 90, "volume": 40, "word_gap": 8}
    spoken = [speak("Hôm nay trời đẹp", "vi", **plain | {name: value}) for name, value in changes.items()]
    spoken.append(speak("Hôm nay trời đẹp", "vi", **plain))
    assert len({samples.tobytes() for samples in spoken}) == len(spoken)


def test_text_is_spoken_in_nfc() -> None:
    pytest.importorskip("espeakng_loader")
    forms = [unicodedata.normalize(form, "Mẹ tôi rất vui vẻ") for form in ("NFC", "NFD")]
    first, second = (speak(form, "vi", pitch=50, rate=175, pitch_range=50, volume=80) for form in forms)
    assert forms[0] != forms[1]
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("voice", "rate", "message"),
    [
        ("vi", 79, r"rate must be 80\.\.450, found 79"),
        ("xx-yy", 175, r"accept voice 'xx-yy', found error 2 \(not found\)"),
        ("vi+nobody", 175, r"the voice variant 'nobody', found no such file"),
    ],
)
def test_what_cannot_be_spoken_is_refused(voice: str, rate: int, message: str) -> None:
    pytest.importorskip("espeakng_loader")
    with pytest.raises(InputError, match=message):
        speak("Xin chào", voice, pitch=50, rate=rate, pitch_range=50, volume=80)
