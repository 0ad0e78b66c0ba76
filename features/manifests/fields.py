"""Fields of one line of a manifest: parsing, validation, and detection of misspelt keys."""

from __future__ import annotations

import difflib
import math
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from features.manifests.label_names import normalize_label

MAX_ID_LENGTH = 256
MAX_SECONDS = 1e9
MAX_CHANNELS = 1024
"""Limit of libsndfile."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096
"""Limits of file systems, for a file name and a whole path."""
MAX_DEPTH = 32
"""Maximum nesting of the value of an extra key, which is copied into predictions."""
MIN_SIMILARITY = 0.85
"""Similarity (difflib) from which a key counts as a misspelt field."""
SYNONYMS: dict[str, tuple[str, ...]] = {
    "utterance_id": ("id", "utt_id", "uid", "name"),
    "speaker_id": ("speaker", "spk", "spk_id"),
    "wav_path": ("path", "audio", "audio_path", "file", "filename", "wav"),
    "transcript": ("text", "sentence", "transcription"),
    "emotion": ("label", "class"),
}


class FieldError(Exception):
    """An invalid field: what it must hold, and what was found (see `Fault`)."""

    def __init__(self, rule: str, found: str = "") -> None:
        super().__init__(rule + found)
        self.rule, self.found = rule, found


@dataclass(frozen=True)
class Fields:
    """The parsed fields of one line, and the faults of the invalid ones."""

    values: dict[str, Any]
    extra: dict[str, Any]
    faults: list[FieldError]
    similar: dict[str, str]
    """For each missing optional field, a key that may be a misspelling of it."""


def parse_fields(document: Mapping[str, Any]) -> Fields:
    """Parse every field of a line; keys that are no fields are kept in `extra`."""
    values: dict[str, Any] = {}
    faults: list[FieldError] = []
    extra = {key: value for key, value in document.items() if key not in _PARSERS}
    misspelt, similar = _find_misspelt(extra, document)
    for field, parse in _PARSERS.items():
        try:  # each parser raises for its own field, so that all faults of a line are reported
            if field in misspelt:
                names = " and ".join(map(short_repr, misspelt[field]))
                verb = "is not a field" if len(misspelt[field]) == 1 else "are not fields"
                raise FieldError(f"{names} {verb} of a manifest; did you mean {field}?")
            values[field] = parse(document, field)
        except FieldError as fault:
            faults.append(fault)
    for key, value in extra.items():
        faults += _check_writable(key, value)
    return Fields(values, extra, faults, similar)


def _find_misspelt(
    extra: Mapping[str, Any], document: Mapping[str, Any]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return, by field, the keys that certainly misspell it, and a key that only may do so."""
    misspelt: dict[str, list[str]] = {}
    similar: dict[str, str] = {}
    for key in extra:
        field = _misspelt_field(key, document)
        if field in OPTIONAL and _letters(key) != _letters(field):
            similar[field] = key  # only a warning: a corpus may have a key of such a name
        elif field is not None:
            misspelt.setdefault(field, []).append(key)
    return misspelt, similar


def find_synonym(field: str, keys: Mapping[str, Any]) -> str | None:
    """Return a key that is a common synonym of a field (such as `text` of `transcript`).

    Returns None if there is none.
    """
    for key in keys:
        if key.casefold() in SYNONYMS.get(field, ()):
            return key
    return None


def _misspelt_field(key: str, document: Mapping[str, Any]) -> str | None:
    """Return the missing field that a key misspells.

    Returns None for other keys, such as transcript_asr or channels.
    """
    return next((field for field in _similar_fields(key) if field not in document), None)


@lru_cache(maxsize=4096)  # the lines of a manifest have the same keys
def _similar_fields(key: str) -> list[str]:
    """Return the fields of which a key may be a misspelling."""
    plain, fields = _plain(key), []
    for field in _PARSERS:
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


def _check_writable(key: str, value: Any) -> Iterator[FieldError]:
    """Yield a fault if a key cannot be written into predictions as JSON."""
    if not _is_text(key):
        yield FieldError("a key must be valid Unicode", f", found a lone surrogate in {short_repr(key)}")
    elif (problem := _writing_problem(value, MAX_DEPTH)) is not None:
        yield FieldError(f"{short_repr(key)} must be JSON that can be written again", f", found {problem}")


def _writing_problem(value: Any, depth: int) -> str | None:
    """Return why a value cannot be written as JSON in UTF-8, or None if it can.

    It may have at most `depth` levels of lists and objects.
    """
    if isinstance(value, str):
        return None if _is_text(value) else f"a lone surrogate in {short_repr(value)}"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value}, which JSON does not support"
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return f"lists or objects nested more than {MAX_DEPTH} deep"
    children = [*value, *value.values()] if isinstance(value, dict) else value
    for child in children:
        problem = _writing_problem(child, depth - 1)
        if problem is not None:
            return problem
    return None


def _is_text(value: str) -> bool:
    """Tell whether a string can be written as UTF-8: a lone surrogate cannot."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def short_repr(value: Any) -> str:
    """Return the repr of a value for a message, shortened if it is long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _text(document: Mapping[str, Any], field: str) -> str:
    """Return a required string; spaces other than U+0020 and control characters are faults."""
    if field not in document:
        synonym = find_synonym(field, document)
        hint = f"; is it the key {synonym!r}? Rename it to {field}" if synonym else ""
        raise FieldError(f"{field} is missing{hint}")
    value = document[field]
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{field} must be a non-empty string", f", found {short_repr(value)}")
    _check_unicode(value, field)
    for character in value:
        if character != " " and unicodedata.category(character) == "Zs":
            name = f"{unicodedata.name(character)} (U+{ord(character):04X})"
            raise FieldError(f"{field} must not contain special spaces", f", found {name} in {short_repr(value)}")
    if not value.isprintable():
        raise FieldError(f"{field} must not contain control characters", f", found {short_repr(value)}")
    return value


def _check_unicode(value: str, field: str) -> None:
    if not _is_text(value):
        found = f", found a lone surrogate in {short_repr(value)}"
        raise FieldError(f"{field} must be valid Unicode", found)


def _id(document: Mapping[str, Any], field: str) -> str:
    value = _text(document, field)
    if len(value) > MAX_ID_LENGTH:
        raise FieldError(f"{field} must have at most {MAX_ID_LENGTH} characters", f", found {len(value)}")
    return value


def _optional_id(document: Mapping[str, Any], field: str) -> str | None:
    return None if document.get(field) is None else _id(document, field)


def _path(document: Mapping[str, Any], field: str) -> str:
    """Return a required path that file systems can hold."""
    value = _text(document, field)
    longest = max(len(name) for name in value.encode().split(b"/"))
    if longest > MAX_NAME_BYTES:
        raise FieldError(f"{field}: a file name must have at most {MAX_NAME_BYTES} bytes", f", found {longest}")
    if len(value.encode()) > MAX_PATH_BYTES:
        raise FieldError(f"{field} must have at most {MAX_PATH_BYTES} bytes", f", found {len(value.encode())}")
    return value


def _time(document: Mapping[str, Any], field: str) -> float | None:
    """Return an optional time in seconds."""
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"{field} must be a number of seconds", f", found {short_repr(value)}")
    # a huge int does not fit into a float
    seconds = float(value) if abs(value) < MAX_SECONDS else math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise FieldError(f"{field} must be finite and at least 0", f", found {short_repr(value)}")
    return seconds


def _start(document: Mapping[str, Any], field: str) -> float:
    return _time(document, field) or 0.0


def _channel(document: Mapping[str, Any], field: str) -> int | str:
    """Return the index of a channel, or "mix" (the default)."""
    value = document.get(field, "mix")
    if value == "mix":
        return "mix"
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and 0 <= value < MAX_CHANNELS:
        return int(value)
    raise FieldError(f"{field} must be 0, 1, ... or 'mix'", f", found {short_repr(value)}")


def _transcript(document: Mapping[str, Any], field: str) -> str | None:
    """Return an optional transcript; it can be empty and can contain any valid Unicode."""
    value = document.get(field)
    if value is not None and not isinstance(value, str):
        raise FieldError(f"{field} must be a string or null", f", found {short_repr(value)}")
    if value is not None:
        _check_unicode(value, field)
    return value


def _emotion(document: Mapping[str, Any], field: str) -> str | None:
    """Return an optional label in normal form; None and a missing key are the same."""
    value = document.get(field)
    if isinstance(value, str) and value.strip():
        return _text({field: normalize_label(value)}, field)
    return None if value is None else _text(document, field)


# each parser takes the whole line and the name of its field
_PARSERS = {
    "utterance_id": _id,
    "speaker_id": _optional_id,
    "wav_path": _path,
    "start": _start,
    "end": _time,
    "channel": _channel,
    "transcript": _transcript,
    "emotion": _emotion,
}
FIELDS = frozenset(_PARSERS)
OPTIONAL = FIELDS - {"utterance_id", "wav_path"}
