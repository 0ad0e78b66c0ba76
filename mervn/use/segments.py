"""Segments of recordings: windows, and lists of segments as CSV or RTTM."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.audio.segment import Channel
from features.corpora.columns import as_text, parse_channel
from features.corpora.csv_table import read_table
from features.errors import InputError
from features.regular_files import read_regular

FILE, START, END, CHANNEL = "file", "start", "end", "channel"
TEXT_COLUMNS = ("transcript", "text")
NO_CHANNEL = "<NA>"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TIME = re.compile(r"(?:(?P<days>\d+) days? )?(?:\+)?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d(?:\.\d+)?)")
"""Form of a time that is not a number, as pandas and audformat write it."""


@dataclass(frozen=True)
class Segment:
    """One segment of a list."""

    file: str | None
    """The recording as the list names it; None if the list has no such column."""
    start: float
    end: float | None
    text: str | None
    place: str
    """Name and line of the list, for messages."""
    channel: Channel | None = None
    """None: the list does not name it."""
    extra: Mapping[str, Any] = field(default_factory=dict)


def windows(start: float, end: float, length: float, hop: float, sample_rate: int) -> list[tuple[float, float]]:
    """Return the windows (start, end) in seconds of a part of a recording.

    Window k begins at start + k * hop. The last one is the first that reaches `end`, to less than a
    sample at `sample_rate` (Hz); it can be shorter than the others.
    """
    found: list[tuple[float, float]] = []
    while not found or round((end - found[-1][1]) * sample_rate, 3) >= 1:
        first = round(start + len(found) * hop, 6)  # a product, so that rounding errors do not add up
        found.append((first, min(round(first + length, 6), end)))
    return found


def read_segments(path: Path) -> list[Segment]:
    """Read a list of segments: RTTM by its suffix, else CSV or TSV with a header.

    Raises InputError for another kind of file, a time that is none, or a segment that ends before
    it starts.
    """
    if path.suffix.lower() == ".rttm":
        found = _read_rttm(path)
    elif path.suffix.lower() in DELIMITERS:
        found = _read_csv(path)
    else:
        raise InputError(f"--segments must be a .csv, .tsv or .rttm file, found {path}")
    for segment in found:
        if segment.end is not None and segment.end <= segment.start:
            raise InputError(
                f"{segment.place}: end must be greater than start, found start={segment.start:g} end={segment.end:g}"
            )
    if not found:
        raise InputError(f"{path} must hold at least one segment, found none")
    return found


def _read_csv(path: Path) -> list[Segment]:
    """Read a table with the columns file, start, end and channel; all but start are optional.

    An empty channel is "mix", as in a manifest; the column also stays among the further ones.
    """
    header, *records = read_table(path, DELIMITERS[path.suffix.lower()])
    names = header[1]
    if START not in names:
        raise InputError(f"{path} must have the columns {FILE}, {START} and {END}, found {', '.join(names)}")
    text = next((name for name in TEXT_COLUMNS if name in names), None)
    found = []
    for line, values in records:
        record, place = dict(zip(names, values, strict=True)), f"{path.name}:{line}"
        extra = {name: value for name, value in record.items() if name not in (FILE, START, END, text)}
        found.append(
            Segment(
                record.get(FILE),
                parse_time(record[START], place) or 0.0,
                parse_time(record.get(END, ""), place),
                record[text] if text is not None else None,
                place,
                parse_channel(as_text(record[CHANNEL]) or "mix", place) if CHANNEL in names else None,
                extra,
            )
        )
    return found


def _read_rttm(path: Path) -> list[Segment]:
    """Read the SPEAKER lines of an RTTM file; the name of the speaker becomes a key of the results."""
    lines = _speaker_lines(path)
    channels = defaultdict(set)
    for _, fields in lines:
        channels[fields[1]].add(fields[2])
    found = []
    for place, fields in lines:
        start, duration = parse_time(fields[3], place), parse_time(fields[4], place)
        if start is None or duration is None:
            raise InputError(f"{place}: start and duration must be seconds, found {fields[3]} and {fields[4]}")
        end, channel = round(start + duration, 6), _rttm_channel(fields[2], channels[fields[1]], place)
        found.append(Segment(fields[1], start, end, None, place, channel, {"speaker": fields[7]}))
    return found


def _speaker_lines(path: Path) -> list[tuple[str, list[str]]]:
    """Return the place and the fields of each SPEAKER line; InputError for one with too few fields."""
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be an RTTM file in UTF-8, but cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        fields, place = line.split(), f"{path.name}:{number}"
        if not fields or fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise InputError(
                f"{place}: must be SPEAKER FILE CHANNEL START DURATION <NA> <NA> NAME, found {len(fields)} fields"
            )
        found.append((place, fields))
    return found


def _rttm_channel(text: str, of_file: Collection[str], place: str) -> Channel | None:
    """Return channel k of RTTM, from 1, as k - 1; None for <NA>, and if 1 or 0 is the only one of its file.

    Many tools write 1, some 0, whatever the audio is. InputError for a text that is no channel.
    """
    if text == NO_CHANNEL or set(of_file) - {NO_CHANNEL} in ({"1"}, {"0"}):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{place}: channel must be 1, 2, ... or {NO_CHANNEL}, found {text!r}")
    return int(text) - 1


def parse_time(text: str, place: str) -> float | None:
    """Return seconds from a number or a time such as `0 days 00:00:01.5`; None for an empty one.

    InputError for another form, and for a negative or infinite number.
    """
    text = text.strip()
    if text in ("", "NaT", "nan", "<NA>"):
        return None
    match = TIME.fullmatch(text)
    if match is not None:
        parts = match.groupdict("0")
        hours = 24 * int(parts["days"]) + int(parts["hours"])
        return round(3600.0 * hours + 60.0 * int(parts["minutes"]) + float(parts["seconds"]), 6)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{place}: a time must be seconds, or of the form 0 days 00:00:01.5, found {text!r}")
    return seconds


def format_time(seconds: float) -> str:
    """Return a time as audformat writes it, with microseconds: `0 days 00:00:01.500000`."""
    whole = round(seconds * 1e6)
    days, rest = divmod(whole, 86_400_000_000)
    hours, rest = divmod(rest, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    return f"{days} days {hours:02d}:{minutes:02d}:{rest / 1e6:09.6f}"
