"""The demo corpus: synthetic Vietnamese speech with four label sets of known cause.

The cause of the label is prosody in `audio`, words in `text`, the exclusive or of the two in
`both`, and chance in `none`. All four share audio, transcripts and ids. The corpus tests a
pipeline; it says nothing about real emotion.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from features.atomic_files import temporary_beside
from features.config import SPLITS
from features.errors import UsageError
from mervn.demo.espeak import SAMPLE_RATE, Samples, speak
from mervn.demo.sentences import Sentence, sentences

VERSION = 1
"""Increased by any change that alters the files for the same seed."""
MARKER_FILE = "corpus.json"
LABELS = {
    "audio": ("calm", "excited"),
    "text": ("negative", "positive"),
    "both": ("sarcastic", "sincere"),
    "none": ("joy", "sadness"),
}
"""The two emotions of each label set; in `none` they have no meaning."""
DIALECTS = {"north": "aav/vi", "central": "vi-vn-x-central", "south": "vi-vn-x-south"}  # a file; names cost 4 ms
SPEAKERS = {
    "train": [
        "north-f5", "north-m7", "north-m1", "central-f2", "central-m8", "central-m2", "south-f5", "south-m1",
        "south-f2", "south-m7",
    ],
    "valid": ["north-f3", "central-m4", "south-m3", "south-f3"],
    "test": ["north-f4", "north-m6", "central-f1", "central-m5", "south-f1", "south-m6"],
}  # fmt: skip
"""Dialect and espeak-ng voice variant of each speaker; no two splits share a variant."""
LONG_RECORDING_EVERY = 3
"""Every third speaker has one long recording; the others have one file per utterance."""
PASSES = {"train": 1, "valid": 2, "test": 2}
"""How often each speaker reads a set of sentences, per split."""
TEMPLATES_PER_PASS = {"train": 20, "valid": 10, "test": 10}
"""Sentence templates per pass, each read with both cues; in train, half of all templates."""
PAUSE_S = (0.2, 0.5)
ROOM_NOISE = 60.0
"""Standard deviation of the white noise in every file, in int16 units.

Digital silence would distort a normalized log-mel spectrogram."""
AROUSAL_SPREAD = 0.48
"""Standard deviation of arousal around -1 (calm) and 1 (excited): the best accuracy is 98 %."""
PARAMETERS = {
    "pitch": (50.0, 20.0, 4.0, (0, 99)),
    "rate": (215.0, 50.0, 8.0, (130, 320)),
    "pitch_range": (50.0, 40.0, 4.0, (0, 99)),
    "volume": (80.0, 6.0, 6.0, (50, 100)),
    "word_gap": (5.0, -5.0, 1.0, (0, 10)),
}
"""Mean, change per unit of arousal, standard deviation and limits of each espeak-ng parameter."""


@dataclass(frozen=True)
class CorpusSummary:
    """Summary of a demo corpus."""

    path: Path
    utterances: dict[str, int]
    """Number of utterances by split."""
    hours: float
    seconds: float = 0.0
    """Time to make it."""
    reused: bool = False
    """Whether the corpus existed already."""


@dataclass(frozen=True)
class Prosody:
    """Prosody of one utterance: arguments of `speak`."""

    pitch: int
    rate: int
    pitch_range: int
    volume: int
    word_gap: int


@dataclass(frozen=True)
class PlannedUtterance:
    """An utterance to synthesize, with its prosody class, its word class and a random class."""

    utterance_id: str
    speaker_id: str
    sentence: Sentence
    excited: bool
    random_class: bool
    prosody: Prosody

    def emotion(self, label_set: str) -> str:
        """Return the label in a label set."""
        positive = self.sentence.positive
        classes = {"audio": self.excited, "text": positive, "both": self.excited == positive, "none": self.random_class}
        return LABELS[label_set][int(classes[label_set])]


def make_corpus(output: Path, seed: int = 0) -> CorpusSummary:
    """Make the corpus of a seed in the folder `output`.

    It has wav/ and {audio,text,both,none}/{train,valid,test}.jsonl. The files depend only on the
    seed, and `output` appears only when it is complete. An existing corpus of the same seed and
    version is kept. Raises UsageError if `output` holds anything else.
    """
    started = time.perf_counter()
    marker = {"corpus": "mervn-demo", "version": VERSION, "seed": seed}
    summary = _existing(output, marker)
    if summary is None:
        temporary = temporary_beside(output)
        temporary.mkdir(parents=True)
        try:
            summary = _make(temporary, seed)
            document = marker | {"utterances": summary.utterances, "hours": summary.hours}
            (temporary / MARKER_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
            temporary.rename(output)
        except BaseException:
            shutil.rmtree(temporary)
            raise
    return replace(summary, path=output, seconds=time.perf_counter() - started)


def _existing(output: Path, marker: Mapping[str, Any]) -> CorpusSummary | None:
    """Return the corpus in `output`, or None if there is nothing; UsageError for anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        found = json.loads((output / MARKER_FILE).read_text("utf-8"))
        if {key: found[key] for key in marker} == marker:
            return CorpusSummary(output, found["utterances"], found["hours"], reused=True)
        content = f"version {found['version']} of seed {found['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        content = f"files without the {MARKER_FILE} of a demo corpus"
    raise UsageError(
        f"{output} must be missing, empty or the demo corpus of version {marker['version']} and "
        f"seed {marker['seed']}, found {content}; choose another folder with --output"
    )


@dataclass(frozen=True)
class Reading:
    """A sentence with its prosody class and its random class."""

    sentence: Sentence
    excited: bool
    random_class: bool

    def opposite(self) -> Reading:
        """Return the same sentence with both classes inverted."""
        return Reading(self.sentence, not self.excited, not self.random_class)


def plan(split: str, seed: int) -> list[PlannedUtterance]:
    """Return the utterances of a split by speaker, in random order within each speaker.

    The readings are balanced, so that only the intended cause predicts a label. Passes come in
    pairs over the same sentences: two passes of one speaker, or of two speakers if each has one.
    The second pass inverts the prosody class and the random class of the first.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    planned = []
    for speaker, readings in _draw_readings(split, rng).items():
        for number, index in enumerate(rng.permutation(len(readings)), 1):
            reading, name = readings[index], f"{speaker}-{number:03d}"
            prosody = _draw_prosody(reading.excited, rng)
            planned.append(
                PlannedUtterance(name, speaker, reading.sentence, reading.excited, reading.random_class, prosody)
            )
    return planned


def _draw_readings(split: str, rng: np.random.Generator) -> dict[str, list[Reading]]:
    """Return the readings of each speaker, in the order of the passes."""
    all_sentences = sentences(split)
    # Two sentences per template, one with each cue, always stay together.
    pairs = [all_sentences[i : i + 2] for i in range(0, len(all_sentences), 2)]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    passes: list[str] = []
    for speaker in SPEAKERS[split]:
        passes += [speaker] * PASSES[split]
    num_templates = TEMPLATES_PER_PASS[split]
    readings: dict[str, list[Reading]] = {speaker: [] for speaker in passes}
    for first, second in zip(passes[::2], passes[1::2], strict=True):
        drawn = _draw_classes(list(chain.from_iterable(pairs[:num_templates])), rng)
        pairs = pairs[num_templates:] + pairs[:num_templates]
        readings[first] += drawn
        readings[second] += [reading.opposite() for reading in drawn]
    return readings


def _draw_classes(spoken: Sequence[Sentence], rng: np.random.Generator) -> list[Reading]:
    """Draw the prosody class and the random class of each sentence, balanced within its word class.

    Half of a word class is excited; half of each half has the random class.
    """
    readings = []
    for positive in (False, True):
        of_class = [sentence for sentence in spoken if sentence.positive == positive]
        half = len(of_class) // 2
        for place, index in enumerate(rng.permutation(len(of_class))):
            readings.append(Reading(of_class[index], place < half, place % half < half // 2))
    return readings


def _draw_prosody(excited: bool, rng: np.random.Generator) -> Prosody:
    """Draw arousal, and from it every prosody parameter."""
    arousal = (1.0 if excited else -1.0) + AROUSAL_SPREAD * rng.standard_normal()
    values = {}
    for name, (mean, change, deviation, (minimum, maximum)) in PARAMETERS.items():
        value = mean + change * arousal + deviation * rng.standard_normal()
        values[name] = int(np.clip(round(value), minimum, maximum))
    return Prosody(**values)


def _make(folder: Path, seed: int) -> CorpusSummary:
    """Synthesize every split into `folder`, write the manifests and return the summary."""
    for name in ("wav", *LABELS):
        (folder / name).mkdir()
    samples = 0
    counts: dict[str, int] = {}
    for split in SPLITS:
        planned = plan(split, seed)
        rng = np.random.default_rng([seed, SPLITS.index(split), 1])
        locations: list[dict[str, str | float]] = []
        for number, speaker in enumerate(SPEAKERS[split]):
            waves = {u.utterance_id: _speak(u) for u in planned if u.speaker_id == speaker}
            samples += sum(map(len, waves.values()))
            if number % LONG_RECORDING_EVERY == 0:
                locations += _write_recording(folder / "wav" / f"{speaker}.wav", list(waves.values()), rng)
                continue
            for name, wave in waves.items():
                locations.append(_write_wave(folder / "wav" / f"{name}.wav", wave, rng))
        for label_set in LABELS:
            with (folder / label_set / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for utterance, location in zip(planned, locations, strict=True):
                    file.write(json.dumps(_manifest_entry(utterance, location, label_set), ensure_ascii=False) + "\n")
        counts[split] = len(planned)
    return CorpusSummary(folder, counts, round(samples / SAMPLE_RATE / 3600, 4))


def _speak(utterance: PlannedUtterance) -> Samples:
    """Return the samples int16 (S,) of an utterance."""
    dialect, variant = utterance.speaker_id.split("-")
    return speak(utterance.sentence.text, f"{DIALECTS[dialect]}+{variant}", **asdict(utterance.prosody))


def _write_wave(path: Path, samples: Samples, rng: np.random.Generator) -> dict[str, str | float]:
    """Write samples int16 (S,) with room noise and return the audio fields of the manifest."""
    noisy = np.rint(samples + ROOM_NOISE * rng.standard_normal(len(samples))).clip(-32768, 32767).astype(np.int16)
    soundfile.write(path, noisy, SAMPLE_RATE, subtype="PCM_16")
    return {"wav_path": f"../wav/{path.name}"}


def _write_recording(path: Path, waves: Sequence[Samples], rng: np.random.Generator) -> list[dict[str, str | float]]:
    """Write utterances with pauses to one file and return the audio fields of the manifest of each.

    Start and end are in seconds, precise enough to round back to the sample.
    """
    parts, spans, position = [], list[dict[str, str | float]](), 0
    for wave in waves:
        pause = round(rng.uniform(*PAUSE_S) * SAMPLE_RATE)
        first, last = position + pause, position + pause + len(wave)
        parts += [np.zeros(pause, np.int16), wave]
        spans.append({"start": round(first / SAMPLE_RATE, 6), "end": round(last / SAMPLE_RATE, 6)})
        position = last
    file = _write_wave(path, np.concatenate(parts), rng)
    return [file | span for span in spans]


def _manifest_entry(
    utterance: PlannedUtterance, location: dict[str, str | float], label_set: str
) -> dict[str, str | float | None]:
    """Return the manifest entry of an utterance; the causes of its labels are extra keys."""
    return {
        "utterance_id": utterance.utterance_id,
        "speaker_id": utterance.speaker_id,
        **location,
        "transcript": utterance.sentence.text,
        "emotion": utterance.emotion(label_set),
        "dialect": utterance.speaker_id.split("-")[0],
        "sentence_id": utterance.sentence.sentence_id,
        "cue": utterance.sentence.cue,
        **asdict(utterance.prosody),
    }
