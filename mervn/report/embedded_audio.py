"""Audio of the mistakes in a report, as FLAC in data: addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError, read_segment
from features.manifests.manifest import Utterance

MAX_BYTES = 8_000_000
"""Maximum number of bytes of all audio in a report, as FLAC."""


@dataclass(frozen=True)
class EmbeddedAudio:
    """Audio of a report, and why some utterances have none."""

    addresses: dict[str, str]
    """By utterance id, a data: address of FLAC, mono, 16 kHz, 16 bit."""
    notes: list[str]
    """What is missing, in sentences."""


def embed_audio(ids: Sequence[str], utterances: dict[str, Utterance], maximum: int = MAX_BYTES) -> EmbeddedAudio:
    """Return the audio of utterances, in the order of `ids`, until `maximum` bytes are reached."""
    addresses: dict[str, str] = {}
    unreadable, left_out, total = 0, 0, 0
    for name in ids:
        if name not in utterances:
            unreadable += 1
            continue
        try:
            content = flac(utterances[name])
        except AudioError:
            unreadable += 1
            continue
        if total + len(content) > maximum:
            left_out += 1
            continue
        total += len(content)
        addresses[name] = f"data:audio/flac;base64,{base64.b64encode(content).decode()}"
    notes = []
    if left_out:
        notes.append(f"{left_out} have no audio here, because together it would exceed {maximum / 1e6:.1f} MB.")
    if unreadable:
        notes.append(f"{unreadable} have no audio here, because it cannot be read now.")
    return EmbeddedAudio(addresses, notes)


def flac(utterance: Utterance) -> bytes:
    """Return the audio of an utterance as FLAC: mono, 16 kHz, 16 bit; AudioError if it cannot be read."""
    import soundfile

    samples = read_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel, SAMPLE_RATE)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
