"""Names of the fields of a line, and the keys that misspell one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

FIELDS = ("utterance_id", "speaker_id", "wav_path", "start", "end", "channel", "transcript", "emotion")
OPTIONAL = frozenset(FIELDS) - {"utterance_id", "wav_path"}
MIN_SIMILARITY = 0.85
"""Similarity (difflib) from which a key counts as a misspelt field."""
SYNONYMS: dict[str, tuple[str, ...]] = {
    "utterance_id": ("id", "utt_id", "uid", "name"),
    "speaker_id": ("speaker", "spk", "spk_id"),
    "wav_path": ("path", "audio", "audio_path", "file", "filename", "wav"),
    "transcript": ("text", "sentence", "transcription"),
    "emotion": ("label", "class"),
}


@lru_cache(maxsize=256)  # the lines of a manifest have the same keys
def other_keys(keys: tuple[str, ...]) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """Return the keys that are no fields.

    Also return, by field, those that certainly misspell it, and one that only may do so.
    """
    extra = [key for key in keys if key not in FIELDS]
    misspelt: dict[str, list[str]] = {}
    similar: dict[str, str] = {}
    for key in extra:
        field = _misspelt_field(key, keys)
        if field in OPTIONAL and _letters(key) != _letters(field):
            similar[field] = key  # only a warning: a corpus may have a key of such a name
        elif field is not None:
            misspelt.setdefault(field, []).append(key)
    return extra, misspelt, similar


def find_synonym(field: str, keys: Mapping[str, Any]) -> str | None:
    """Return a key that is a common synonym of a field (such as `text` of `transcript`).

    Returns None if there is none.
    """
    for key in keys:
        if key.casefold() in SYNONYMS.get(field, ()):
            return key
    return None


def _misspelt_field(key: str, keys: Collection[str]) -> str | None:
    """Return the missing field that a key misspells.

    Returns None for other keys, such as transcript_asr or channels.
    """
    return next((field for field in _similar_fields(key) if field not in keys), None)


@lru_cache(maxsize=4096)  # also if each line has other keys
def _similar_fields(key: str) -> list[str]:
    """Return the fields of which a key may be a misspelling."""
    plain, fields = _plain(key), []
    for field in FIELDS:
        if plain in SYNONYMS.get(field, ()):
            continue
        # a key that only adds a prefix or suffix has another meaning; short words are all similar
        is_other = plain.startswith(field) or plain.endswith(f"_{field}") or len(field) <= 5
        similarity = 0.0 if is_other else difflib.SequenceMatcher(None, plain, field).ratio()
        if _letters(key) == _letters(field) or similarity >= MIN_SIMILARITY:
            fields.append(field)
    return fields


def _plain(key: str) -> str:
    """Return a key in lower case, with underscores between words."""
    return key.casefold().strip().replace("-", "_").replace(" ", "_")


def _letters(key: str) -> str:
    """Return a key in lower case without separators: `wavPath` and `wav-path` give `wavpath`."""
    return _plain(key).replace("_", "")
