"""Fields of one line of a manifest: parsing, validation, and detection of misspelt keys."""

from __future__ import annotations

import math
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from features.manifests.field_names import find_synonym, other_keys
from features.manifests.label_names import normalize_label
from features.text.normalize import normalize_text

MAX_ID_LENGTH = 256
MAX_SECONDS = 1e9
MAX_CHANNELS = 1024
"""Limit of libsndfile."""
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096
"""Limits of file systems, for a file name and a whole path."""
MAX_DEPTH = 32
"""Maximum nesting of the value of an extra key, which is copied into predictions."""
MAX_REPEATED = 4096
"""Number of labels, speakers and paths that are remembered as valid: many lines have the same ones."""


class FieldError(Exception):
    """An invalid field: what it must hold, and what was found (see `Fault`)."""

    def __init__(self, rule: str, found: str = "") -> None:
        super().__init__(rule + found)
        self.rule, self.found = rule, found


class Fields(NamedTuple):
    """The parsed fields of one line, and the faults of the invalid ones.

    A tuple, because one is made for each line of a manifest.
    """

    values: dict[str, Any]
    extra: dict[str, Any]
    faults: list[FieldError]
    similar: dict[str, str]
    """For each missing optional field, a key that may be a misspelling of it."""


def parse_fields(document: Mapping[str, Any]) -> Fields:
    """Parse every field of a line; keys that are no fields are kept in `extra`."""
    names, misspelt, similar = other_keys(tuple(document))
    extra = {key: document[key] for key in names}
    faults: list[FieldError] = []
    try:
        if misspelt:
            raise FieldError("found below")
        values = {field: parse(document, field) for field, parse in _PARSERS.items()}
    except FieldError:  # few lines have faults: all of them are looked for then
        values = _parse_each(document, misspelt, faults)
    for key, value in extra.items():
        if type(value) is not str or not value.isascii() or not key.isascii():  # most are plain strings
            faults += _check_writable(key, value)
    return Fields(values, extra, faults, dict(similar))


def _parse_each(
    document: Mapping[str, Any], misspelt: Mapping[str, list[str]], faults: list[FieldError]
) -> dict[str, Any]:
    """Return the valid fields of a line, and add the faults of the others."""
    values: dict[str, Any] = {}
    for field, parse in _PARSERS.items():
        try:  # each parser raises for its own field, so that all faults of a line are reported
            if field in misspelt:
                found = " and ".join(map(short_repr, misspelt[field]))
                verb = "is not a field" if len(misspelt[field]) == 1 else "are not fields"
                raise FieldError(f"{found} {verb} of a manifest; did you mean {field}?")
            values[field] = parse(document, field)
        except FieldError as fault:
            faults.append(fault)
    return values


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
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def short_repr(value: Any) -> str:
    """Return the repr of a value for a message, shortened if it is long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _text(document: Mapping[str, Any], field: str) -> str:
    """Return a required string; spaces other than U+0020 and control characters are faults."""
    value = document.get(field)
    # special spaces, control characters and lone surrogates are not printable
    if isinstance(value, str) and value.isprintable() and value.strip():
        return str(value)
    if field not in document:
        synonym = find_synonym(field, document)
        hint = f"; is it the key {synonym!r}? Rename it to {field}" if synonym else ""
        raise FieldError(f"{field} is missing{hint}")
    if not isinstance(value, str) or not value.strip():
        raise FieldError(f"{field} must be a non-empty string", f", found {short_repr(value)}")
    _check_unicode(value, field)
    for character in value:
        if character != " " and unicodedata.category(character) == "Zs":
            name = f"{unicodedata.name(character)} (U+{ord(character):04X})"
            raise FieldError(f"{field} must not contain special spaces", f", found {name} in {short_repr(value)}")
    raise FieldError(f"{field} must not contain control characters", f", found {short_repr(value)}")


def _check_unicode(value: str, field: str) -> None:
    if not _is_text(value):
        found = f", found a lone surrogate in {short_repr(value)}"
        raise FieldError(f"{field} must be valid Unicode", found)


def _id(document: Mapping[str, Any], field: str) -> str:
    value = _text(document, field)
    if len(value) > MAX_ID_LENGTH:
        raise FieldError(f"{field} must have at most {MAX_ID_LENGTH} characters", f", found {len(value)}")
    return value


def _speaker(document: Mapping[str, Any], field: str) -> str | None:
    """Return an optional speaker in normal form: one name in two Unicode forms is one speaker."""
    value = document.get(field)
    if type(value) is str:
        return _repeated_speaker(value, field)
    return None if value is None else _id(document, field)


@lru_cache(maxsize=MAX_REPEATED)
def _repeated_speaker(value: str, field: str) -> str:
    return normalize_text(_id({field: value}, field))


def _path(document: Mapping[str, Any], field: str) -> str:
    """Return a required path that file systems can hold."""
    value = document.get(field)
    return _repeated_path(value if type(value) is str else _text(document, field), field)


@lru_cache(maxsize=MAX_REPEATED)
def _repeated_path(value: str, field: str) -> str:
    _text({field: value}, field)
    encoded = value.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return value
    longest = max(map(len, encoded.split(b"/")))
    if longest > MAX_NAME_BYTES:
        raise FieldError(f"{field}: a file name must have at most {MAX_NAME_BYTES} bytes", f", found {longest}")
    if len(encoded) > MAX_PATH_BYTES:
        raise FieldError(f"{field} must have at most {MAX_PATH_BYTES} bytes", f", found {len(encoded)}")
    return value


def _time(document: Mapping[str, Any], field: str) -> float | None:
    """Return an optional time in seconds."""
    value = document.get(field)
    if value is None or (type(value) is float and 0 <= value < MAX_SECONDS):
        return value
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
        return _label(value, field)
    return None if value is None else _text(document, field)


@lru_cache(maxsize=MAX_REPEATED)
def _label(value: str, field: str) -> str:
    return _text({field: normalize_label(value)}, field)


# each parser takes the whole line and the name of its field
_PARSERS = {
    "utterance_id": _id,
    "speaker_id": _speaker,
    "wav_path": _path,
    "start": _start,
    "end": _time,
    "channel": _channel,
    "transcript": _transcript,
    "emotion": _emotion,
}
