"""Values by which scores are broken down: manifest keys, bands of duration and transcript length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from features.errors import UsageError
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.suggestions import did_you_mean
from features.text.normalize import syllables
from mervn.data.split import Split
from mervn.evaluation.intervals import unit_name

DURATION, TRANSCRIPT_LENGTH = "duration", "transcript_length"
UNKNOWN = "unknown"
"""Name of the value of utterances that lack a key."""
MANIFEST_KEYS = ("speaker_id", "wav_path", "channel", "transcript")
"""Fields of a manifest that can be a unit or a key; extra keys of the manifest can be too."""
Bands = Sequence[tuple[float, str]]
"""Upper limits, exclusive, and names of bands, in order."""
DURATION_BANDS: Bands = (
    (1, "under 1 s"),
    (2, "1 to 2 s"),
    (4, "2 to 4 s"),
    (8, "4 to 8 s"),
    (math.inf, "8 s or more"),
)
"""Bands of seconds; a lower limit belongs to its band."""
TRANSCRIPT_BANDS: Bands = (
    (1, "empty"),
    (6, "1 to 5 syllables"),
    (11, "6 to 10 syllables"),
    (21, "11 to 20 syllables"),
    (math.inf, "21 syllables or more"),
)
"""Bands of syllables; a missing transcript is empty."""


def band_of(value: float, bands: Bands) -> str:
    """Return the name of the band that a value of 0 or more belongs to."""
    return next(name for limit, name in bands if value < limit)


def values_of(split: Split, key: str, flag: str) -> list[Any]:
    """Return the value of a manifest key for each utterance; None for utterances that lack it.

    `flag` is the option that names the key. UsageError if no utterance of the split has the key.
    """
    if key in MANIFEST_KEYS:
        return [getattr(utterance, key) for utterance in split.utterances]
    values = [utterance.extra.get(key) for utterance in split.utterances]
    if all(value is None for value in values):
        known = _keys(split.utterances)
        raise UsageError(
            f"{flag} must name keys of the manifest, but no utterance of {split.name} has {key!r}"
            f"{did_you_mean(key, known)}; it has {', '.join(known)}"
        )
    return values


def _keys(utterances: Iterable[Utterance]) -> list[str]:
    """Return the keys that utterances have: fields of a manifest, then extra keys."""
    extra: dict[str, None] = {}
    for utterance in utterances:
        extra |= dict.fromkeys(utterance.extra)
    return [*MANIFEST_KEYS, *extra]


def breakdown_values(split: Split, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the name of each utterance's value, by key: `keys`, then the two kinds of bands.

    UsageError if no utterance of the split has one of the keys.
    """
    values: dict[str, list[str]] = {}
    for key in keys:
        if key not in (DURATION, TRANSCRIPT_LENGTH):
            values[key] = list(map(_name, values_of(split, key, "--by")))
    values[DURATION] = _durations(split)
    values[TRANSCRIPT_LENGTH] = []
    for utterance in split.utterances:
        count = len(syllables(transcript_of(utterance)))
        values[TRANSCRIPT_LENGTH].append(band_of(count, TRANSCRIPT_BANDS))
    return values


def _name(value: Any) -> str:
    """Return the name of a value of a manifest."""
    return unit_name(value) or UNKNOWN


def seconds_of(split: Split) -> list[float]:
    """Return each duration: of the audio that was read, else from start to end; 0 if unknown."""
    found = []
    for utterance, seconds in zip(split.utterances, split.audio_seconds.tolist(), strict=True):
        if not seconds and utterance.end is not None:
            seconds = utterance.end - utterance.start
        found.append(seconds)
    return found


def _durations(split: Split) -> list[str]:
    """Return the band of each duration."""
    return [band_of(seconds, DURATION_BANDS) if seconds else UNKNOWN for seconds in seconds_of(split)]


def in_order(key: str, names: Iterable[str]) -> list[str]:
    """Return the distinct values of a key: bands by size, others by name, unknown last."""
    bands = {DURATION: DURATION_BANDS, TRANSCRIPT_LENGTH: TRANSCRIPT_BANDS}.get(key, ())
    order = [name for _, name in bands]
    distinct = set(names)
    if order:
        return [name for name in [*order, UNKNOWN] if name in distinct]
    return sorted(distinct, key=lambda name: (name == UNKNOWN, name))
