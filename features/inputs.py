"""What an encoder is given for an utterance, and how it is told whether that has changed since."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from features.audio import decode_segment, resample
from features.encoders.base import Encoder
from features.manifest import Utterance
from features.store.reader import RowInfo
from features.text import normalize_text, text_sha256

SAMPLE_RATE = 16_000
Freshness = Literal["same", "moved", "changed"]
"""Of a committed row: its input is as it was, has the same content in a file touched or moved since, or has changed."""


@dataclass(frozen=True)
class Input:
    """One utterance as an encoder takes it."""

    utterance: Utterance
    prepared: Tensor
    """What `Encoder.prepare` gave; no rows for an empty transcript."""
    num_inputs: int
    """Samples at 16 kHz, or characters."""
    input_sha256: str
    source: dict[str, Any]


def transcript_of(utterance: Utterance) -> str:
    """Return the normalised transcript; empty where there is none."""
    return normalize_text(utterance.transcript or "")


def read_input(utterance: Utterance, encoder: Encoder) -> Input:
    """Read and prepare one utterance; AudioError if its audio cannot be used."""
    if encoder.modality == "text":
        text = transcript_of(utterance)
        return Input(utterance, encoder.prepare(text), len(text), text_sha256(text), {})
    source = audio_source(utterance)
    samples, rate = decode_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    wave = resample(samples, rate, SAMPLE_RATE)
    return Input(utterance, encoder.prepare(wave), wave.shape[0], samples_sha256(samples, rate), source)


def samples_sha256(samples: np.ndarray[Any, Any], rate: int) -> str:
    """Hash decoded samples at the file's own rate: resampling may round differently from machine to machine."""
    return hashlib.sha256(f"{rate}|".encode() + np.ascontiguousarray(samples).tobytes()).hexdigest()


def audio_source(utterance: Utterance) -> dict[str, Any]:
    """Return where the samples come from: path as in the manifest, size and mtime of the file, start, end, channel."""
    found = utterance.audio_path.stat() if utterance.audio_path.exists() else None
    return {
        "path": utterance.wav_path,
        "size": found.st_size if found else None,
        "mtime_ns": found.st_mtime_ns if found else None,
        "start": utterance.start,
        "end": utterance.end,
        "channel": utterance.channel,
    }


def compare_input(
    utterance: Utterance, row: RowInfo, modality: str, *, offline: bool = False, decode: bool = False
) -> Freshness:
    """Tell whether a committed row was made from what the manifest says now.

    A transcript is compared by hash. Audio is compared by start, end, channel, size and mtime, and decoded and
    compared by hash where the file has been touched or moved, or if `decode`. Where the file cannot be reached, start,
    end and channel decide if `offline`; else it is an AudioError.
    """
    if modality == "text":
        return "same" if text_sha256(transcript_of(utterance)) == row.input_sha256 else "changed"
    then, now = json.loads(row.source), audio_source(utterance)
    if then == now and not decode:
        return "same"
    if now["size"] is None and offline and not decode:
        return "same" if all(then[key] == now[key] for key in ("start", "end", "channel")) else "changed"
    samples, rate = decode_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    if samples_sha256(samples, rate) != row.input_sha256:
        return "changed"
    return "same" if then == now else "moved"
