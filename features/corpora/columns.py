"""Columns of a table or data set: which one holds which field, and utterances from its values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from features.config import SplitName
from features.corpora.items import Item
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError
from features.manifests.field_names import SYNONYMS
from features.suggestions import did_you_mean

NAMES: dict[str, tuple[str, ...]] = {
    "id": ("utterance_id", *SYNONYMS["utterance_id"], "key", "file_id"),
    "audio": ("wav_path", *SYNONYMS["wav_path"], "file_name"),
    "label": ("emotion", *SYNONYMS["emotion"], "emo"),
    "speaker": ("speaker_id", *SYNONYMS["speaker_id"], "spkrid"),
    "transcript": ("transcript", *SYNONYMS["transcript"]),
    "split": ("split", "split_set"),
    "group": (),
    "start": ("start", "start_time"),
    "end": ("end", "end_time"),
    "channel": ("channel",),
}
"""By field the names of columns that mean it without a flag; the first one is preferred."""
REQUIRED = ("audio", "label")
NO_SPEAKER = ("unknown", "nan", "none", "null", "n/a", "-", "?")
"""Values of a column of speakers that name no speaker."""
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "development": "valid",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


def choose_columns(
    names: Iterable[str], options: ImportOptions, found: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return by field of `NAMES` its column: the one of the flag, else the one with a known name.

    `found` holds columns that are known already. Raises UsageError if a column does not exist, if
    several could be meant, or if audio or label has none.
    """
    columns = list(names)
    chosen = dict(found or {})
    faults = []
    for field, known in NAMES.items():
        flag = f"--{field}-column"
        given = getattr(options, f"{field}_column")
        if given is not None:
            if given not in columns:
                near = did_you_mean(given, columns)
                faults.append(f"{flag} must be one of {', '.join(columns)}, found {given!r}{near}")
            chosen[field] = given
            continue
        # a path can be the id
        taken = {name for other, name in chosen.items() if (field, other) != ("audio", "id")}
        matching = [name for name in columns if name.casefold() in known and name not in taken]
        preferred = [name for name in matching if name.casefold() == known[0]] or matching
        if field in chosen or not preferred:
            continue
        if len(preferred) > 1:
            faults.append(f"{flag} must be given, because {' and '.join(preferred)} could be meant")
        chosen[field] = preferred[0]
    for field in REQUIRED:
        if field not in chosen:
            faults.append(f"--{field}-column must be given: one of {', '.join(columns)}")
    if faults:
        raise UsageError("\n".join(faults))
    return chosen


def make_item(
    record: Mapping[str, Any], columns: Mapping[str, str], audio: Path, options: ImportOptions, place: str
) -> Item:
    """Return the utterance of one record; `place` names it in messages.

    Values of other columns become further keys. Without an id, the id is the name of the audio file
    without suffix. Raises InputError for an id, a time, channel or split that is none.
    """
    texts = {field: as_text(record[column]) for field, column in columns.items() if field != "audio"}
    if "id" in columns and texts["id"] is None:
        raise InputError(f"{place}: {columns['id']} must be an utterance id, found none")
    utterance_id = texts.get("id") or audio.stem
    extra = {}
    used = {column for field, column in columns.items() if field != "group"}
    for name, value in record.items():
        if name not in used:
            extra[name] = _plain(value)
    return Item(
        utterance_id=utterance_id,
        audio=audio,
        label=texts.get("label"),
        speaker_id=_speaker(texts.get("speaker")) or options.find_speaker(utterance_id),
        transcript=texts.get("transcript"),
        start=_seconds(texts.get("start"), "start", place),
        end=_seconds(texts.get("end"), "end", place),
        channel=parse_channel(texts.get("channel"), place),
        split=_split(texts["split"], place) if "split" in texts else None,
        group=texts.get("group"),
        extra=extra,
    )


def as_text(value: Any) -> str | None:
    """Return a value as a string; None for a missing or empty one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def parse_channel(text: str | None, place: str) -> int | Literal["mix"] | None:
    """Return the channel of a table, 0, 1, ... or mix; None for None. InputError for another text."""
    if text is None:
        return None
    if text == "mix":
        return "mix"
    text = text.removesuffix(".0")  # as pandas writes a column of numbers with empty cells
    if not text.isdecimal():
        raise InputError(f"{place}: channel must be 0, 1, ... or mix, found {text!r}")
    return int(text)


def _plain(value: Any) -> Any:
    """Return a value that JSON has; others as text, and numbers that JSON lacks as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def _speaker(text: str | None) -> str | None:
    """Return a speaker; None for a word that says that nobody knows."""
    return None if text is None or text.casefold() in NO_SPEAKER else text


def _seconds(text: str | None, field: str, place: str) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{place}: {field} must be a number of seconds, found {text!r}") from None


def _split(text: str | None, place: str) -> SplitName:
    split = SPLIT_NAMES.get(str(text).casefold())
    if split is None:
        raise InputError(f"{place}: the split must be one of {', '.join(SPLIT_NAMES)}, found {text!r}")
    return split
