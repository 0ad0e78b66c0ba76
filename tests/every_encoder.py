"""Tiny checkpoints of every encoder, and the measure of how far features depend on the batch."""

from pathlib import Path
from typing import Any

import torch
from tiny import make_phobert, make_vggish, make_videberta, make_wave_transformer, make_whisper, wave

from features.encoders import AUDIO_ENCODERS, ENCODERS
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.ragged import Ragged

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
    return {name: str(path) for name, path in made.items()}


def load(name: str, checkpoints: dict[str, str], layer: str = "", **settings: str) -> Encoder:
    """Load an encoder from its tiny checkpoint; `layer` is the end of its selector, such as @2."""
    modality = "audio" if name in AUDIO_ENCODERS else "text"
    model = f"={checkpoints[name]}" if name in checkpoints else ""
    return load_encoder(parse_selector(f"{name}{model}{layer}", modality), EncoderSettings(**settings))


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
    with torch.inference_mode():
        together = encoder(Ragged.from_sequences(prepared)).split()
        alone = [encoder(Ragged.from_sequences([item])).values for item in prepared]
    return [(a - b).abs().max().item() for a, b in zip(together, alone, strict=True)]


EVERY = [name for registry in ENCODERS.values() for name in registry]
