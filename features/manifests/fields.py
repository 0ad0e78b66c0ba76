"""The fields of one line of a manifest: what each must hold, and keys that were meant to be one of them."""

from __future__ import annotations

import difflib
import math
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from features.manifests.label_names import normalize_label

MAX_ID_LENGTH = 256
MAX_SECONDS = 1e9
MAX_CHANNELS = 1024
"""libsndfile reads no more."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096
"""Of a file's name and of a whole path; file systems take no more."""
MAX_DEPTH = 32
"""Lists and objects within each other in a key that travels into predictions."""
NEAR = 0.85
"""Similarity (difflib) from which a key counts as a field misspelt."""
SYNONYMS: dict[str, tuple[str, ...]] = {
    "utterance_id": ("id", "utt_id", "uid", "name"),
    "speaker_id": ("speaker", "spk", "spk_id"),
    "wav_path": ("path", "audio", "audio_path", "file", "filename", "wav"),
    "transcript": ("text", "sentence", "transcription"),
    "emotion": ("label", "class"),
}


class FieldError(Exception):
    """What a field must hold, and what it holds."""

    def __init__(self, rule: str, found: str = "") -> None:
        super().__init__(rule + found)
        self.rule, self.found = rule, found


@dataclass(frozen=True)
class Fields:
    """The fields of one line that could be read, and the faults of the others."""

    values: dict[str, Any]
    extra: dict[str, Any]
    faults: list[FieldError]
    near: dict[str, str]
    """For each missing optional field, a key that may be a misspelling of it."""


def parse_fields(document: Mapping[str, Any]) -> Fields:
    """Read every field of a line; keys that are not of the format are kept."""
    values: dict[str, Any] = {}
    faults = []
    extra = {key: value for key, value in document.items() if key not in _PARSERS}
    misspelt: dict[str, list[str]] = {}
    near: dict[str, str] = {}
    for key in extra:
        field = _misspelt(key, document)
        if field in OPTIONAL and _letters(key) != _letters(field):
            near[field] = key  # a corpus may have a key of such a name
        elif field is not None:
            misspelt.setdefault(field, []).append(key)
    for field, parse in _PARSERS.items():
        try:
            if field in misspelt:
                names = " and ".join(map(shown, misspelt[field]))
                verb = "is no key" if len(misspelt[field]) == 1 else "are no keys"
                raise FieldError(f"{names} {verb} of a manifest; did you mean {field}?")
            values[field] = parse(document, field)
        except FieldError as fault:
            faults.append(fault)
    faults += [fault for key, value in extra.items() for fault in _unwritable(key, value)]
    return Fields(values, extra, faults, near)


def meant(field: str, keys: Mapping[str, Any]) -> str | None:
    """Return a key that may have been meant to be a field that is missing."""
    return next((key for key in keys if key.casefold() in SYNONYMS.get(field, ())), None)


def _misspelt(key: str, document: Mapping[str, Any]) -> str | None:
    """Return the missing field that a key is a misspelling of; transcript_asr, channels and emotion2 are none."""
    plain = _plain(key)
    for field in _PARSERS:
        if field in document or plain in SYNONYMS.get(field, ()):
            continue
        if _letters(key) == _letters(field):
            return field
        other = plain.startswith(field) or plain.endswith(f"_{field}") or len(field) <= 5  # short words are all near
        if not other and difflib.SequenceMatcher(None, plain, field).ratio() >= NEAR:
            return field
    return None


def _plain(key: str) -> str:
    return key.casefold().strip().replace("-", "_").replace(" ", "_")


def _letters(key: str) -> str:
    return _plain(key).replace("_", "")


def _unwritable(key: str, value: Any) -> Iterator[FieldError]:
    """Yield why a key could not be written into predictions."""
    if not _is_text(key):
        yield FieldError("a key must be valid Unicode", f", found a lone surrogate in {shown(key)}")
    elif (why := _why_unwritable(value, MAX_DEPTH)) is not None:
        yield FieldError(f"{shown(key)} must be JSON that can be written again", f", found {why}")


def _why_unwritable(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        return None if _is_text(value) else f"a lone surrogate in {shown(value)}"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value}, which JSON does not have"
    if not isinstance(value, dict | list):
        return None
    if depth == 0:
        return f"more than {MAX_DEPTH} lists or objects within each other"
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    return next((why for each in inside if (why := _why_unwritable(each, depth - 1)) is not None), None)


def _is_text(value: str) -> bool:
    """Tell whether a string can be written as UTF-8: half of a surrogate pair cannot."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def shown(value: Any) -> str:
    """Return a value for a message, cut if it is long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _text(document: Mapping[str, Any], field: str) -> str:
    if field not in document:
        near = meant(field, document)
        raise FieldError(f"{field} is missing" + (f"; is it the key {near!r}? Call it {field}" if near else ""))
    value = document[field]
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{field} must be a non-empty string", f", found {shown(value)}")
    if not _is_text(value):
        raise FieldError(f"{field} must be valid Unicode", f", found a lone surrogate in {shown(value)}")
    space = next((character for character in value if character != " " and unicodedata.category(character) == "Zs"), "")
    if space:
        named = f"{unicodedata.name(space)} (U+{ord(space):04X})"
        raise FieldError(f"{field} must not hold spaces but the plain one", f", found {named} in {shown(value)}")
    if not value.isprintable():
        raise FieldError(f"{field} must not hold control characters", f", found {shown(value)}")
    return value


def _id(document: Mapping[str, Any], field: str) -> str:
    value = _text(document, field)
    if len(value) > MAX_ID_LENGTH:
        raise FieldError(f"{field} must have at most {MAX_ID_LENGTH} characters", f", found {len(value)}")
    return value


def _optional_id(document: Mapping[str, Any], field: str) -> str | None:
    return None if document.get(field) is None else _id(document, field)


def _path(document: Mapping[str, Any], field: str) -> str:
    value = _text(document, field)
    longest = max(len(name.encode()) for name in value.split("/"))
    if longest > MAX_NAME_BYTES:
        raise FieldError(f"{field}: a name in it must have at most {MAX_NAME_BYTES} bytes", f", found {longest}")
    if len(value.encode()) > MAX_PATH_BYTES:
        raise FieldError(f"{field} must have at most {MAX_PATH_BYTES} bytes", f", found {len(value.encode())}")
    return value


def _time(document: Mapping[str, Any], field: str) -> float | None:
    value = document.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"{field} must be a number of seconds", f", found {shown(value)}")
    seconds = float(value) if abs(value) < MAX_SECONDS else math.inf  # an int can be too large for a float
    if not math.isfinite(seconds) or seconds < 0:
        raise FieldError(f"{field} must be finite and at least 0", f", found {shown(value)}")
    return seconds


def _start(document: Mapping[str, Any], field: str) -> float:
    return _time(document, field) or 0.0


def _channel(document: Mapping[str, Any], field: str) -> int | str:
    value = document.get(field, "mix")
    if value == "mix" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_CHANNELS):
        return str(value) if isinstance(value, str) else int(value)
    raise FieldError(f"{field} must be 0, 1, ... or 'mix'", f", found {shown(value)}")


def _transcript(document: Mapping[str, Any], field: str) -> str | None:
    value = document.get(field)
    if value is not None and not isinstance(value, str):
        raise FieldError(f"{field} must be a string or null", f", found {shown(value)}")
    if value is not None and not _is_text(value):
        raise FieldError(f"{field} must be valid Unicode", f", found a lone surrogate in {shown(value)}")
    return value


def _emotion(document: Mapping[str, Any], field: str) -> str | None:
    value = document.get(field)
    if isinstance(value, str) and value.strip():
        return _text({field: normalize_label(value)}, field)
    return None if value is None else _text(document, field)


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
