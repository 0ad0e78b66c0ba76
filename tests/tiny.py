"""Tiny data and checkpoints in the real formats, for the tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

RATE = 16_000


def wave(seconds: float, seed: int, rate: int = RATE, pitch: float = 180.0) -> np.ndarray[Any, Any]:
    """Return a noisy tone (S,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def write_manifest(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def make_data(folder: Path, counts: Mapping[str, int] | None = None, rate: int = RATE) -> Path:
    """Write a data folder in which pitch and words both tell the emotion; one transcript in five is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (counts or {"train": 24, "valid": 10, "test": 8}).items():
        rows = []
        for i in range(count):
            happy = i % 2
            name = f"{split}-{i:03d}"
            samples = wave(0.3 + 0.05 * (i % 7), i, rate, 150.0 + 150 * happy)
            soundfile.write(folder / f"{name}.wav", samples, rate)
            rows.append(
                {
                    "utterance_id": name,
                    "speaker_id": f"{split}-speaker-{i % 3}",
                    "wav_path": f"{name}.wav",
                    "transcript": None if i % 5 == 4 else f"hôm nay tôi {('buồn', 'vui')[happy]} lắm" + " ạ" * (i % 4),
                    "emotion": ("sad", "happy")[happy],
                    "take": i,
                }
            )
        write_manifest(folder / f"{split}.jsonl", rows)
    return folder


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def make_whisper(folder: Path, scale: float = 3.0, seed: int = 0) -> Path:
    """Write a tiny Whisper checkpoint with a real window of 3 s; its weights are large enough to show a leak."""
    from features.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=60, max_source_positions=150, max_target_positions=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperModel(config)
        with torch.no_grad():
            for name, parameter in model.encoder.named_parameters():
                if name.endswith("weight") and parameter.ndim > 1 and "embed" not in name:
                    parameter.mul_(scale)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=3).save_pretrained(folder)
    return folder
