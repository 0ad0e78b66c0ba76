"""Tiny checkpoints of every encoder, and the measure of how far features depend on the batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tiny import (
    make_language_model,
    make_phobert,
    make_vggish,
    make_videberta,
    make_wave_transformer,
    make_whisper,
    wave,
)

from features.encoders import AUDIO_ENCODERS, ENCODERS
from features.encoders.base import Encoder, load_encoder
from features.encoders.encoder_checks import batch_differences
from features.encoders.selector import EncoderSettings, parse_selector
from features.ragged import Ragged, padding_mask

LANGUAGE_MODELS = {"qwen2": "Qwen2", "gemma": "Gemma"}
"""Decoder-only models that `transformer` reads, each with its family in transformers."""
TOLERANCE = 2e-5
AUDIO_LENGTHS = (1, 399, 400, 401, 719, 720, 15_599, 15_600, 47_999, 48_000, 48_001, 60_123)
TEXTS = ("hôm nay trời đẹp", "", "ừ", "tôi không biết phải nói gì với anh ấy nữa", "supercalifragilisticexpialidocious")


def make_checkpoints(models: Path) -> dict[str, str]:
    """Write a tiny checkpoint of every encoder that needs one, below a folder."""
    made = {kind: make_wave_transformer(models / kind, kind) for kind in ("wav2vec2", "hubert", "wavlm", "data2vec")}
    made["whisper"] = make_whisper(models / "tiny-whisper")
    made["vggish"] = make_vggish(models / "vggish")
    made["phobert"] = make_phobert(models / "phobert")
    made["videberta"] = made["transformer"] = make_videberta(models / "videberta")
    for name, family in LANGUAGE_MODELS.items():
        made[name] = make_language_model(models / name, family)
    return {name: str(path) for name, path in made.items()}


def load(name: str, checkpoints: dict[str, str], layer: str = "", **settings: str) -> Encoder:
    """Load an encoder from its tiny checkpoint; `layer` is the end of its selector, such as @2."""
    modality = "audio" if name in AUDIO_ENCODERS else "text"
    model = f"={checkpoints[name]}" if name in checkpoints else ""
    encoder = "transformer" if name in LANGUAGE_MODELS else name
    return load_encoder(parse_selector(f"{encoder}{model}{layer}", modality), EncoderSettings(**settings))


def inputs(encoder: Encoder) -> list[torch.Tensor]:
    """Return prepared inputs of many lengths."""
    raw: list[Any] = list(TEXTS)
    if encoder.modality == "audio":
        raw = [wave(n / 16_000, n) for n in AUDIO_LENGTHS]
    return [encoder.prepare(item) for item in raw]


def differences(encoder: Encoder, device: str = "cpu") -> list[float]:
    """Return the maximum difference of each input's features between a batch and alone, computed on a device."""
    encoder.to(device)
    prepared = [item.to(device) for item in inputs(encoder) if item.shape[0]]
    return batch_differences(encoder, prepared)


@contextmanager
def padding_first() -> Iterator[None]:
    """Put the padding of a batch before the sequences, and make every mask true: a causal model then attends to it."""

    def pad(self: Ragged, fill: float = 0.0) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(self.split(), True, fill, padding_side="left")

    def pack(self: Ragged, padded: torch.Tensor) -> Ragged:
        return self.replace(torch.cat([one[len(one) - size :] for one, size in zip(padded, self.sizes, strict=True)]))

    patches = {
        "pad": pad,
        "pack": pack,
        "mask": property(lambda self: padding_mask(self.lengths, self.max_length) | True),
    }
    with mock.patch.multiple(Ragged, **patches):
        yield


EVERY = [name for registry in ENCODERS.values() for name in registry]
CASES = [*EVERY, *LANGUAGE_MODELS]
