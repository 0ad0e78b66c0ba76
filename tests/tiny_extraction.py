"""Utterances and faulty audio for the tests of the extraction."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny import AUDIO_SIZES, TEXT_SIZES, wave

import features.audio.decoding
from features.encoders import fourier2vec, hashed_ngrams
from features.encoders.fourier2vec import Fourier2Vec
from features.encoders.hashed_ngrams import HashedNgrams
from features.manifests.manifest import Utterance


def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often the audio of an utterance is decoded."""
    counts: Counter[str] = Counter()
    decode = features.audio.decoding.decode_segment

    def counting(path: Path, *rest: Any) -> Any:
        counts[path.stem] += 1
        return decode(path, *rest)

    monkeypatch.setattr("features.audio.decoding.decode_segment", counting)
    return counts


def spoil(data: Path, *names: str) -> None:
    """Put a NaN, which only decoding finds, into the audio of utterances."""
    for name in names:
        samples = wave(0.5, 3)
        samples[70] = np.nan
        soundfile.write(data / f"{name}.wav", samples, 16_000, subtype="FLOAT")


def small_encoders(folder: Path) -> tuple[str, str]:
    """Write checkpoints of the two encoders without pretrained weights, each under 100 kB, and return their selectors.

    With their own sizes they have 3 and 4 million weights, which every store, checkpoint and copy would hold.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Fourier2Vec(fourier2vec.DEFAULTS | AUDIO_SIZES | {"num_layers": 2}).save(folder / "fourier2vec")
        HashedNgrams(hashed_ngrams.DEFAULTS | TEXT_SIZES).save(folder / "hashed_ngrams")
    return f"fourier2vec={folder / 'fourier2vec'}", f"hashed_ngrams={folder / 'hashed_ngrams'}"


def utterance(name: str) -> Utterance:
    """Return an utterance with a transcript."""
    return Utterance(
        name, "s", "a.wav", Path("a.wav"), 0.0, None, "mix", "xin chào", None, "train", "train.jsonl", 1, {}
    )
