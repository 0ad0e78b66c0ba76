"""Audio containers: is the audio that a header declares in the file? libsndfile silently shortens a truncated file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""What a writer leaves in the header of a stream whose size it did not know."""
STREAMED_RIFF = 0x7FFFF000 - 64
"""From here on a RIFF size that is more than there is was written for a stream: sox and others put about 2 GB."""
OGG_TAIL = 1 << 17
"""The last page begins within these bytes at the end: a page has at most 65 307."""
OGG_LAST = 4
"""Flag of the last page of a stream."""
HEADER_ENDS = "the header ends before the audio"


def find_truncation(path: Path, container: str) -> str | None:
    """Return what a file lacks of the audio that its header declares; None if nothing, or if the size is not declared.

    `container` is libsndfile's name of it. FLAC and MP3 are not looked at: their decoders find what is missing.
    """
    reader = READERS.get(container)
    if reader is None:
        return None
    with path.open("rb") as file:
        try:
            return reader(file, path.stat().st_size)
        except struct.error:
            return HEADER_ENDS


def _unpack(file: BinaryIO, offset: int, form: str) -> tuple[int, ...]:
    file.seek(offset)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _compare(declared: int, first: int, size: int) -> str | None:
    """Compare a declared number of bytes with those from offset `first` to the end."""
    found = size - first
    if declared in UNKNOWN_SIZES or declared <= found:
        return None
    return f"the header declares {declared} bytes of audio, found {found}"


def _chunks(file: BinaryIO, offset: int, size: int, form: str, align: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size and first byte of each chunk; a chunk begins with its name and size, laid out as `form`."""
    while offset + struct.calcsize(form) <= size:
        first = offset + struct.calcsize(form)
        file.seek(offset)
        name, length = struct.unpack(form, file.read(first - offset))
        yield name, length, first
        offset = first + -(-length // align) * align


def _riff(file: BinaryIO, size: int) -> str | None:
    """WAV, and RF64, whose 64-bit sizes stand in the chunk `ds64` before the audio.

    A pipe cannot be rewound to correct its sizes, and programs leave different ones of 2 GB and more. What is lost by
    that: a real WAV of 2 GB or more that was cut is taken for a stream that is whole.
    """
    file.seek(0)
    form = ">4sI" if file.read(4) == b"RIFX" else "<4sI"
    large = None
    for name, length, first in _chunks(file, 12, size, form, 2):
        if name == b"ds64":
            (large,) = _unpack(file, first + 8, "<Q")
        if name == b"data":
            if large is None and length >= STREAMED_RIFF:
                return None
            return _compare(length if large is None else large, first, size)
    return HEADER_ENDS


def _w64(file: BinaryIO, size: int) -> str | None:
    """Sony Wave64: names of 16 bytes, sizes that count their own chunk's header."""
    offset = 40
    while offset + 24 <= size:
        file.seek(offset)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"data":
            return _compare(length - 24, offset + 24, size) if length >= 24 else None
        offset += max(24, -(-length // 8) * 8)
    return HEADER_ENDS


def _aiff(file: BinaryIO, size: int) -> str | None:
    for name, length, first in _chunks(file, 12, size, ">4sI", 2):
        if name == b"SSND":
            return _compare(length, first, size)
    return HEADER_ENDS


def _caf(file: BinaryIO, size: int) -> str | None:
    for name, length, first in _chunks(file, 8, size, ">4sQ", 1):
        if name == b"data":
            return _compare(length, first, size)
    return HEADER_ENDS


def _au(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    first, declared = _unpack(file, 4, ">II" if file.read(4) == b".snd" else "<II")
    return _compare(declared, first, size)


def _nist(file: BinaryIO, size: int) -> str | None:
    """NIST SPHERE: a header of text, its size in its second line."""
    header = file.read(1024).decode("latin-1")
    fields = {name: int(value) for name, value in re.findall(r"^(\w+) -i (\d+)", header, re.MULTILINE)}
    try:
        first = int(header.split("\n")[1])
        declared = fields["sample_count"] * fields["channel_count"] * fields["sample_n_bytes"]
    except (IndexError, ValueError, KeyError):
        return None
    return _compare(declared, first, size)


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Ogg (RFC 3533): the last page has the flag of a last page, and is complete."""
    first = max(0, size - OGG_TAIL)
    file.seek(first)
    tail = file.read()
    page = tail.rfind(b"OggS")
    segments = tail[page + 27 : page + 27 + tail[page + 26]] if 0 <= page < len(tail) - 26 else b""
    whole = bool(segments) and page + 27 + len(segments) + sum(segments) <= len(tail)
    return None if whole and tail[page + 5] & OGG_LAST else "the last page of the stream is missing"


READERS = {
    "WAV": _riff, "WAVEX": _riff, "RF64": _riff, "W64": _w64, "AIFF": _aiff, "AU": _au, "CAF": _caf, "NIST": _nist,
    "OGG": _ogg,
}  # fmt: skip
CONTAINERS = frozenset({*READERS, "FLAC", "MP3"})
"""Containers, as libsndfile calls them, in which a truncated file is recognised; no others are read."""
