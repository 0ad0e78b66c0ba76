"""Units of work of an extraction, and their results."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.manifests.manifest import Utterance
from features.store.rejected import Rejection


@dataclass(frozen=True)
class Unit:
    """One unit of work: the batches that hold utterances to encode."""

    name: str
    batches: list[list[Utterance]]
    wanted: list[set[str]]
    """For each store the ids of the utterances that it lacks."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of audio of each utterance by id, if known; empty for text."""


@dataclass(frozen=True)
class UnitResult:
    """Result of encoding one unit."""

    name: str
    written: list[list[str]]
    """For each store the ids of the committed utterances."""
    rejected: list[Rejection]
    audio_seconds: float
    """Seconds of the encoded audio; 0 for text."""
