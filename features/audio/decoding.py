"""Decoding of a segment at 16 kHz together with the state of its file, in this process or in another one.

It imports torch only to resample: a process that only decodes starts in a tenth of a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.file_state import FileState, file_state
from features.audio.resampling import SAMPLE_RATE, Samples, resample
from features.audio.segment import AudioError, Channel, decode_segment


@dataclass(frozen=True)
class Decoded:
    """Result of decoding a segment."""

    state: FileState
    """State of the file before it was decoded: it can change meanwhile."""
    samples: Samples
    """(S,) float32 at 16 kHz; (0,) if the audio cannot be used."""
    sha256: str
    """Result of `samples_sha256`, before resampling."""
    fault: tuple[str, str] | None = None
    """Reason and message of the AudioError if the audio cannot be used."""

    def check(self) -> None:
        """Raise AudioError if the audio cannot be used."""
        if self.fault is not None:
            raise AudioError(*self.fault)


Decode = Callable[[Path, float, float | None, Channel], Decoded]
"""Function that decodes a segment, with the arguments of `decode_segment`."""


def decode(path: Path, start: float, end: float | None, channel: Channel) -> Decoded:
    """Decode and resample a segment in this process."""
    state = file_state(path)
    try:
        samples, rate = decode_segment(path, start, end, channel)
        return Decoded(state, resample(samples, rate, SAMPLE_RATE), samples_sha256(samples, rate))
    except AudioError as error:
        fault = error.reason, str(error)
    except (MemoryError, RuntimeError) as error:
        from features.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        fault = out_of_memory(path)
    return Decoded(state, np.zeros(0, np.float32), "", fault)


def out_of_memory(path: Path) -> tuple[str, str]:
    """Return the fault of audio that does not fit into memory."""
    return "out_of_memory", f"{path}: the audio must fit into memory"


def unreadable_now(path: Path, found: str) -> str:
    """Return the message of the fault of audio whose content is not at fault."""
    return f"{path} cannot be read now, found: {found}. This says nothing about its content: run the command again"


def segment_sha256(path: Path, start: float, end: float | None, channel: Channel) -> str:
    """Return `samples_sha256` of a segment; AudioError if it cannot be decoded."""
    return samples_sha256(*decode_segment(path, start, end, channel))


def samples_sha256(samples: np.ndarray[Any, Any], rate: int) -> str:
    """Hash decoded samples at the file's own rate: resampling can round differently."""
    digest = hashlib.sha256(f"{rate}|".encode())
    digest.update(np.ascontiguousarray(samples).data)
    return digest.hexdigest()
