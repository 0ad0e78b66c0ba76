"""A clean corpus without audio files, and one fault of each kind to plant in it, at two strengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.audit.audio_facts import AudioFacts
from features.audit.corpus import Corpus
from features.manifests.manifest import Utterance

LABELS = ("angry", "happy", "sad")
SPEAKERS = {"train": 12, "valid": 5, "test": 5}
PER_SPEAKER = 12
SYLLABLES = (
    "hôm", "nay", "trời", "đẹp", "tôi", "không", "biết", "phải", "nói", "gì", "mẹ", "ơi", "con", "về", "nhà", "ăn",
)  # fmt: skip
WEAK, STRONG = 0.7, 1.0
"""Strengths of a fault: the fraction of utterances or groups that have it, or its size."""


@dataclass
class Planted:
    """Utterances and their facts, which faults change in place."""

    utterances: list[Utterance]
    facts: list[AudioFacts]
    rng: np.random.Generator

    def change(self, index: int, **fields: Any) -> None:
        """Change fields of an utterance."""
        self.utterances[index] = replace(self.utterances[index], **fields)

    def measure(self, index: int, **fields: Any) -> None:
        """Change facts of an utterance."""
        self.facts[index] = self.facts[index]._replace(**fields)

    def of(self, split: str) -> list[int]:
        """Return the indices of a split."""
        return [i for i, utterance in enumerate(self.utterances) if utterance.split == split]

    def some(self, strength: float, indices: Sequence[int] | None = None) -> list[int]:
        """Return a fraction of all or of some indices, drawn at random."""
        chosen = range(len(self.utterances)) if indices is None else indices
        return [i for i in chosen if self.rng.random() < strength]

    def label(self, index: int) -> str:
        """Return the label of an utterance."""
        return str(self.utterances[index].emotion)

    def corpus(self) -> Corpus:
        """Return the corpus."""
        return Corpus(self.utterances, self.facts)


def clean_corpus(seed: int) -> Planted:
    """Return a corpus in which nothing tells the label: some sentences repeat in a split, some are empty."""
    rng = np.random.default_rng(seed)
    utterances, facts = [], []
    for split, num_speakers in SPEAKERS.items():
        for speaker in range(num_speakers):
            pace = rng.normal(0, 0.3)  # of the speaker
            for take in range(PER_SPEAKER):
                number = len(utterances)
                path = f"wav/u{number:04d}.wav"
                words = " ".join(rng.choice(SYLLABLES, 7)) if take % 4 else f"câu {rng.integers(20)} của {split}"
                utterances.append(
                    Utterance(
                        f"u{number:04d}", f"{split}-{speaker}", path, Path(path),
                        0.0, None, "mix", "" if rng.random() < 0.05 else f"{words}.", str(rng.choice(LABELS)), split,
                        f"{split}.jsonl", take + 1, {},
                    )
                )  # fmt: skip
                seconds = float(np.exp(rng.normal(1, 0.4) + pace))
                rate = int(rng.choice([16_000, 44_100]))
                facts.append(AudioFacts(seconds, rate, 1, 0.5, 0.1, 0.0, None, f"{number:064x}", False, None, ""))
    return Planted(utterances, facts, rng)


def uneven_corpus(seed: int) -> Planted:
    """Return a clean corpus in which label, rate and names depend on the speaker, and not on each other."""
    made = clean_corpus(seed)
    rng = np.random.default_rng([seed, 1])
    kinds: dict[str, tuple[Any, int]] = {}
    for index, one in enumerate(made.utterances):
        speaker = str(one.speaker_id)
        kinds.setdefault(
            speaker, (0.1 + 0.7 * rng.dirichlet(np.array([3.0, 1.0, 1.0])), int(rng.choice([8_000, 16_000])))
        )
        preference, rate = kinds[speaker]
        name = f"{one.line:02d}_{speaker}"
        made.change(index, emotion=str(rng.choice(LABELS, p=preference)), utterance_id=name)
        made.change(index, wav_path=f"{speaker}/{name}.wav", audio_path=Path(f"{speaker}/{name}.wav"))
        made.measure(index, sample_rate=rate)
    return made


def speaker_overlap(made: Planted, strength: float) -> None:
    for index in made.of("test")[: round(12 * strength)]:
        made.change(index, speaker_id="train-0" if index % 2 else "train-1")


def recording_overlap(made: Planted, strength: float) -> None:
    train, test = made.of("train"), made.of("test")
    for number in range(round(5 * strength)):
        made.change(train[number * 12], audio_path=Path("wav/film.wav"), start=10.0 * number, end=10.0 * number + 3)
        made.change(
            test[number * 12], audio_path=Path("wav/film.wav"), start=500.0 + 10 * number, end=503.0 + 10 * number
        )


def segment_overlap(made: Planted, strength: float) -> None:
    recording_overlap(made, strength)
    first, second = made.of("train")[0], made.of("test")[0]
    shift = 3 * (1 - strength)
    made.change(first, start=100.0, end=102.0)
    made.change(second, start=100.0 + shift, end=102.0 + shift)
    for index in (first, second):
        made.measure(index, seconds=2.0)
        made.change(index, emotion="sad")  # other labels would be another fault


def duplicate_audio(made: Planted, strength: float) -> None:
    train, test = made.of("train"), made.of("test")
    for number in range(1 if strength < 1 else 10):
        made.measure(test[number], sha256=made.facts[train[number]].sha256)
        made.change(test[number], emotion=made.label(train[number]))


def conflicting_labels(made: Planted, strength: float) -> None:
    train = made.of("train")
    for number in range(1 if strength < 1 else 10):
        made.measure(train[number], sha256=made.facts[train[number + 12]].sha256)
        made.change(train[number], emotion="sad")
        made.change(train[number + 12], emotion="happy")


def transcript_overlap(made: Planted, strength: float) -> None:
    train, test = made.of("train"), made.of("test")
    for number in range(round(5 * strength)):
        made.change(train[number], transcript=f"Ông Ðạt hoà nhã, bài {number}!")
        made.change(
            test[number],
            transcript=f"ông đạt hòa nhã bài {number}" if strength < 1 else made.utterances[train[number]].transcript,
        )


def speaker_is_utterance(made: Planted, strength: float) -> None:
    for index in made.some(strength):
        made.change(index, speaker_id=made.utterances[index].utterance_id)


def unknown_speaker(made: Planted, strength: float) -> None:
    for index in made.some(1.0 if strength == 1 else 0.1):
        made.change(index, speaker_id=None)


def label_in_id(made: Planted, strength: float) -> None:
    for index in made.some(strength):
        name = made.label(index) if strength < 1 else f"{LABELS.index(made.label(index)):02d}"  # a code, as in RAVDESS
        made.change(index, utterance_id=f"03-{name}-{index:04d}")


def label_in_path(made: Planted, strength: float) -> None:
    for index in made.some(strength):
        name = f"wav/Nhãn_{made.label(index).upper()}/{made.utterances[index].utterance_id}.wav"
        made.change(index, wav_path=name)


def empty_transcript(made: Planted, strength: float) -> None:
    for index in made.some(0.05 if strength < 1 else 1.0):
        made.change(index, transcript=None if index % 2 else " ... ")


def empty_transcript_by_class(made: Planted, strength: float) -> None:
    for index in made.some(0.3 if strength < 1 else 1.0):
        if made.label(index) == "sad":
            made.change(index, transcript="")
    for index in range(len(made.utterances)):
        if made.label(index) != "sad" and not made.utterances[index].transcript:
            made.change(index, transcript=f"câu riêng số {index}")


def transcript_is_label(made: Planted, strength: float) -> None:
    for index in made.some(strength):
        made.change(index, transcript=f"({made.label(index)})")


def end_past_file(made: Planted, strength: float) -> None:
    if strength < 1:
        made.measure(3, end_clipped=True)
        return
    for index in range(4):
        made.measure(index, problem="end_past_file", seconds=0.0, sha256="", peak=0.0, detail="end")


def unreadable_audio(made: Planted, strength: float) -> None:
    for index in range(1 if strength < 1 else 9):
        made.measure(index, problem="truncated", seconds=0.0, sha256="", peak=0.0, detail="the audio is short")


def clipped_audio(made: Planted, strength: float) -> None:
    for index in made.some(0.02 if strength < 1 else 1.0):
        made.measure(index, clipped_fraction=0.002 if strength < 1 else 0.3, peak=1.0)


def silent_audio(made: Planted, strength: float) -> None:
    for index in range(2 if strength < 1 else 40):
        made.measure(index, peak=0.0009 if strength < 1 else 0.0, rms=0.0, sha256="0" * 64)


def decorrelated_stereo(made: Planted, strength: float) -> None:
    for index in made.some(0.02 if strength < 1 else 1.0):
        made.measure(index, num_channels=2, correlation=0.3 if strength < 1 else -0.9)


def duration_by_class(made: Planted, strength: float) -> None:
    for index in range(len(made.utterances)):
        longer = 2.0 * strength * (made.label(index) == "sad")
        made.measure(index, seconds=made.facts[index].seconds * float(np.exp(longer)))


def sample_rate_by_class(made: Planted, strength: float) -> None:
    for index in made.some(strength):
        made.measure(index, sample_rate=8_000 if made.label(index) == "angry" else 16_000)


def class_missing(made: Planted, strength: float) -> None:
    if strength < 1:
        for index in made.of("test"):
            made.change(index, emotion="sad" if made.label(index) == "angry" else made.label(index))
    else:
        made.change(made.of("test")[0], emotion="afraid")


def few_speakers(made: Planted, strength: float) -> None:
    for index in made.of("test"):
        made.change(index, speaker_id=f"test-{index % (3 if strength < 1 else 1)}")


def dominant_speaker(made: Planted, strength: float) -> None:
    for index in made.of("train")[: round(132 * strength) - 20]:
        made.change(index, speaker_id="train-0")


def transcript_not_nfc(made: Planted, strength: float) -> None:
    for index in range(1 if strength < 1 else 30):
        made.change(index, transcript=f"hoa\u0300 bi\u0300nh {index}")


def label_lookalike(made: Planted, strength: float) -> None:
    # once in every split, so that no class is missing
    for split in SPEAKERS:
        for index in made.of(split)[: 1 if strength < 1 else 20]:
            made.change(index, emotion="Sad")
        if not any(made.label(i) == "sad" for i in made.of(split)):
            made.change(made.of(split)[-1], emotion="sad")


FAULTS: dict[Callable[[Planted, float], None], frozenset[str]] = {
    speaker_overlap: frozenset(),
    recording_overlap: frozenset(),
    segment_overlap: frozenset({"recording_overlap"}),
    duplicate_audio: frozenset(),
    conflicting_labels: frozenset({"duplicate_audio"}),
    transcript_overlap: frozenset(),
    speaker_is_utterance: frozenset(),
    unknown_speaker: frozenset(),
    label_in_id: frozenset(),
    label_in_path: frozenset(),
    empty_transcript: frozenset(),
    empty_transcript_by_class: frozenset(),
    transcript_is_label: frozenset({"transcript_overlap"}),
    end_past_file: frozenset(),
    unreadable_audio: frozenset(),
    clipped_audio: frozenset(),
    silent_audio: frozenset(),
    decorrelated_stereo: frozenset(),
    duration_by_class: frozenset(),
    sample_rate_by_class: frozenset(),
    class_missing: frozenset(),
    few_speakers: frozenset(),
    dominant_speaker: frozenset(),
    transcript_not_nfc: frozenset(),
    label_lookalike: frozenset(),
}
"""Each fault, and the other findings that it causes."""
