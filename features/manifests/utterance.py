"""Utterance: one line of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest."""

    utterance_id: str
    speaker_id: str | None
    """None: unknown."""
    wav_path: str
    """As written in the manifest."""
    audio_path: Path
    """`wav_path`; if it is relative, below the audio root or the manifest's folder."""
    start: float
    """In seconds."""
    end: float | None
    """In seconds; None: the end of the file."""
    channel: int | Literal["mix"]
    """Index of a channel, or the mean of all channels."""
    transcript: str | None
    emotion: str | None
    """The label, in NFC without leading and trailing white space."""
    split: str
    file: str
    """File name of the manifest, for messages."""
    line: int
    """Line of the manifest, from 1."""
    extra: Mapping[str, Any]
    """Keys that are no fields of a manifest; copied into predictions."""
