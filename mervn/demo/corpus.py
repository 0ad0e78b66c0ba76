"""The demo corpus: synthetic Vietnamese speech in which it is known what decides each of four label sets.

audio: prosody decides; text: words decide; both: only the two together (their exclusive or); none: nothing does. It
proves a pipeline, and nothing about emotion. Audio, transcripts and ids are the same in all four.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
"""Raised by any change that makes other files for the same seed."""
MARKER_FILE = "corpus.json"
LABELS = {
    "audio": ("calm", "excited"),
    "text": ("negative", "positive"),
    "both": ("sarcastic", "sincere"),
    "none": ("joy", "sadness"),
}
"""The two emotions of each label set; `none` has names like any other, and they mean nothing."""
DIALECTS = {"north": "vi", "central": "vi-vn-x-central", "south": "vi-vn-x-south"}
SPEAKERS = {
    "train": [
        "north-f5",
        "north-m7",
        "north-m1",
        "central-f2",
        "central-m8",
        "central-m2",
        "south-f5",
        "south-m1",
        "south-f2",
        "south-m7",
    ],
    "valid": ["north-f3", "central-m4", "south-m3", "south-f3"],
    "test": ["north-f4", "north-m6", "central-f1", "central-m5", "south-f1", "south-m6"],
}
"""A dialect and an espeak-ng variant each; no two splits share a variant."""
RECORDED_AT_LENGTH = 3
"""Every third speaker of a split is one long recording, cut by start and end; the others are a file an utterance."""
PASSES = {"train": 1, "valid": 2, "test": 2}
"""How many passes a speaker makes."""
FRAMES_PER_PASS = {"train": 20, "valid": 10, "test": 10}
"""How many frames a pass takes, each with both cues; in train that is half of them, so that there are more to learn."""
PAUSE_S = (0.2, 0.5)
ROOM_NOISE = 60.0
"""Deviation of white noise in every file, in steps of int16: digital silence would rule a normalised log-mel."""
AROUSAL_SPREAD = 0.48
"""Deviation of arousal around -1 (calm) and 1 (excited): they overlap, the best rule is right 98 times in 100."""
PARAMETERS = {
    "pitch": (50.0, 20.0, 4.0, (0, 99)),
    "rate": (215.0, 50.0, 8.0, (130, 320)),
    "pitch_range": (50.0, 40.0, 4.0, (0, 99)),
    "volume": (80.0, 6.0, 6.0, (50, 100)),
    "word_gap": (5.0, -5.0, 1.0, (0, 10)),
}
"""Centre, change per unit of arousal, deviation of its own, and limits; a voice's own pitch comes on top."""


@dataclass(frozen=True)
class CorpusSummary:
    """What a demo corpus holds."""

    path: Path
    utterances: dict[str, int]
    """By split."""
    hours: float
    seconds: float
    """How long making it took."""
    reused: bool
    """True where it was there already."""


@dataclass(frozen=True)
class Prosody:
    """Arguments of `speak`."""

    pitch: int
    rate: int
    pitch_range: int
    volume: int
    word_gap: int


@dataclass(frozen=True)
class Planned:
    """An utterance to be spoken, with the two classes that decide and a third that does not."""

    utterance_id: str
    speaker_id: str
    sentence: Sentence
    excited: bool
    chance: bool
    prosody: Prosody

    def emotion(self, label_set: str) -> str:
        """Return its label in a label set."""
        positive = self.sentence.positive
        bits = {"audio": self.excited, "text": positive, "both": self.excited == positive, "none": self.chance}
        return LABELS[label_set][bits[label_set]]


def make_corpus(output: Path, seed: int = 0) -> CorpusSummary:
    """Make the corpus of a seed in `output`: wav/ and {audio,text,both,none}/{train,valid,test}.jsonl.

    Its files are a function of the seed, and they appear all at once. A corpus of the same seed and version that is
    there already is kept as it is. Raises InputError where `output` holds anything else.
    """
    started = time.perf_counter()
    marker = {"corpus": "mervn-demo", "version": VERSION, "seed": seed}
    summary = _existing(output, marker)
    reused = summary is not None
    if summary is None:
        temporary = temporary_beside(output)
        temporary.mkdir(parents=True)
        try:
            summary = _make(temporary, seed)
            (temporary / MARKER_FILE).write_text(json.dumps(marker | summary, indent=2) + "\n", "utf-8")
            temporary.rename(output)
        except BaseException:
            shutil.rmtree(temporary)
            raise
    return CorpusSummary(output, **summary, seconds=time.perf_counter() - started, reused=reused)


def _existing(output: Path, marker: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the counts of the corpus that is in `output`, None where nothing is; UsageError for anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        found = json.loads((output / MARKER_FILE).read_text("utf-8"))
        if {key: found[key] for key in marker} == marker:
            return {"utterances": found["utterances"], "hours": found["hours"]}
        held = f"version {found['version']} of seed {found['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        held = f"something without a demo corpus's {MARKER_FILE}"
    raise UsageError(
        f"{output} must be absent, empty or the demo corpus of version {marker['version']} and seed {marker['seed']}, "
        f"found {held}; choose another folder with --output"
    )


def plan(split: str, seed: int) -> list[Planned]:
    """Return the utterances of a split by speaker, each speaker's in random order.

    Turns come in pairs (two passes of a speaker, or of two speakers where each has one) in which prosody and chance
    are exchanged: for every sentence of the pair, every speaker and every pair of prosody and word class, the classes
    that are left are as many on one side as on the other.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    spoken = sentences(split)
    frames = [spoken[i : i + 2] for i in range(0, len(spoken), 2)]
    frames = [frames[index] for index in rng.permutation(len(frames))]
    turns = [speaker for speaker in SPEAKERS[split] for _ in range(PASSES[split])]
    taken = FRAMES_PER_PASS[split]
    drawn: dict[str, list[tuple[Sentence, bool, bool]]] = {}
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        draws = _draw_classes([sentence for frame in frames[:taken] for sentence in frame], rng)
        frames = frames[taken:] + frames[:taken]
        drawn.setdefault(first, []).extend(draws)
        drawn.setdefault(second, []).extend((sentence, not excited, not chance) for sentence, excited, chance in draws)
    planned = []
    for speaker, draws in drawn.items():
        for number, index in enumerate(rng.permutation(len(draws)), 1):
            sentence, excited, chance = draws[index]
            prosody = _draw_prosody(excited, rng)
            planned.append(Planned(f"{speaker}-{number:03d}", speaker, sentence, excited, chance, prosody))
    return planned


def _draw_classes(spoken: Sequence[Sentence], rng: np.random.Generator) -> list[tuple[Sentence, bool, bool]]:
    """Give half of the sentences of each word class to each prosody class, and chance to half of either half."""
    draws = []
    for positive in (False, True):
        mine = [sentence for sentence in spoken if sentence.positive == positive]
        half = len(mine) // 2
        for place, index in enumerate(rng.permutation(len(mine))):
            draws.append((mine[index], place < half, place % half < half // 2))
    return draws


def _draw_prosody(excited: bool, rng: np.random.Generator) -> Prosody:
    arousal = (1.0 if excited else -1.0) + AROUSAL_SPREAD * rng.standard_normal()
    values = {}
    for name, (centre, change, deviation, (least, greatest)) in PARAMETERS.items():
        value = centre + change * arousal + deviation * rng.standard_normal()
        values[name] = int(np.clip(round(value), least, greatest))
    return Prosody(**values)


def _make(folder: Path, seed: int) -> dict[str, Any]:
    """Speak every split into `folder`, write the manifests and return the counts."""
    for name in ("wav", *LABELS):
        (folder / name).mkdir()
    counts, samples = {}, 0
    for split in SPLITS:
        planned = plan(split, seed)
        rng = np.random.default_rng([seed, SPLITS.index(split), 1])
        audio: list[dict[str, Any]] = []
        for number, speaker in enumerate(SPEAKERS[split]):
            own = [utterance for utterance in planned if utterance.speaker_id == speaker]
            waves = {utterance.utterance_id: _speak(utterance) for utterance in own}
            samples += sum(map(len, waves.values()))
            if number % RECORDED_AT_LENGTH == 0:
                audio += _write_recording(folder / "wav" / f"{speaker}.wav", list(waves.values()), rng)
            else:
                audio += [_write_wave(folder / "wav" / f"{name}.wav", wave, rng) for name, wave in waves.items()]
        for label_set in LABELS:
            rows = [_row(utterance, where, label_set) for utterance, where in zip(planned, audio, strict=True)]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / label_set / f"{split}.jsonl").write_text(text, "utf-8")
        counts[split] = len(planned)
    return {"utterances": counts, "hours": round(samples / SAMPLE_RATE / 3600, 4)}


def _speak(utterance: Planned) -> Samples:
    dialect, variant = utterance.speaker_id.split("-")
    return speak(utterance.sentence.text, f"{DIALECTS[dialect]}+{variant}", **asdict(utterance.prosody))


def _write_wave(path: Path, samples: Samples, rng: np.random.Generator) -> dict[str, Any]:
    """Write samples int16 (S,) with room noise; return where they are."""
    noisy = np.rint(samples + ROOM_NOISE * rng.standard_normal(len(samples))).clip(-32768, 32767).astype(np.int16)
    soundfile.write(path, noisy, SAMPLE_RATE, subtype="PCM_16")
    return {"wav_path": f"../wav/{path.name}"}


def _write_recording(path: Path, waves: Sequence[Samples], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Join utterances with pauses in one file; return where each is, in seconds that round back to its samples."""
    parts, rows, position = [], [], 0
    for wave in waves:
        pause = round(rng.uniform(*PAUSE_S) * SAMPLE_RATE)
        first, last = position + pause, position + pause + len(wave)
        parts += [np.zeros(pause, np.int16), wave]
        rows.append({"start": round(first / SAMPLE_RATE, 6), "end": round(last / SAMPLE_RATE, 6)})
        position = last
    where = _write_wave(path, np.concatenate(parts), rng)
    return [where | row for row in rows]


def _row(utterance: Planned, where: Mapping[str, Any], label_set: str) -> dict[str, Any]:
    """Return a line of a manifest; what decides the classes travels along as extra keys."""
    return {
        "utterance_id": utterance.utterance_id,
        "speaker_id": utterance.speaker_id,
        **where,
        "transcript": utterance.sentence.text,
        "emotion": utterance.emotion(label_set),
        "dialect": utterance.speaker_id.split("-")[0],
        "sentence_id": utterance.sentence.sentence_id,
        "cue": utterance.sentence.cue,
        **asdict(utterance.prosody),
    }
