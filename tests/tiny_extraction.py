"""Utterances and faulty audio for the tests of the extraction."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import wave

import features.extraction.encoder_input
from features.manifests.manifest import Utterance


def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often the audio of an utterance is decoded."""
    counts: Counter[str] = Counter()
    decode = features.extraction.encoder_input.decode_segment

    def counting(path: Path, *rest: Any) -> Any:
        counts[path.stem] += 1
        return decode(path, *rest)

    monkeypatch.setattr("features.extraction.encoder_input.decode_segment", counting)
    return counts


def spoil(data: Path, *names: str) -> None:
    """Put a NaN, which only decoding finds, into the audio of utterances."""
    for name in names:
        samples = wave(0.5, 3)
        samples[70] = np.nan
        soundfile.write(data / f"{name}.wav", samples, 16_000, subtype="FLOAT")


def utterance(name: str) -> Utterance:
    """Return an utterance with a transcript."""
    return Utterance(
        name, "s", "a.wav", Path("a.wav"), 0.0, None, "mix", "xin chào", None, "train", "train.jsonl", 1, {}
    )
