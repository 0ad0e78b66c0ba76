"""Audio containers: the audio that a header declares, of which libsndfile reads less or more.

It silently shortens a truncated file, and in some containers decodes bytes after the audio.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from features.audio.second_stream import last_ogg_page

UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""Sizes that writers put into the header of a stream whose size they did not know."""
STREAMED_RIFF = 0x7FFFF000 - 64
"""A RIFF size from here on that exceeds the file means a stream: sox and others write a size of
about 2 GB."""
OGG_LAST = 4
"""Header flag of the last page of a stream."""
NIST_SIZES = ("sample_count", "channel_count", "sample_n_bytes")
"""Fields of a NIST SPHERE header whose product is the number of bytes of audio."""
HEADER_ENDS = "the header ends before the audio"
SAMPLE_BYTES = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1,
}  # fmt: skip
"""Bytes of one sample in each encoding without blocks, by libsndfile's name."""
GSM, GSM_BLOCK = "GSM610", (65, 320)
"""The encoding GSM 06.10, and the bytes and samples of its blocks in WAV and W64."""
Extent = tuple[int, int]
"""The number of bytes of audio that a header declares, and the offset of the first one."""


def find_truncation(path: Path, container: str) -> str | None:
    """Describe the audio that the header declares and that is missing in the file.

    None if nothing is missing, or if no size is declared. `container` is libsndfile's name of the
    format. FLAC and MP3 are not checked here: their decoders detect it.
    """
    with path.open("rb") as file:
        try:
            size = path.stat().st_size
            if container == "OGG":
                return _ogg(file, size)
            extent = _extent(file, size, container)
        except struct.error:
            return HEADER_ENDS
    if extent is None or extent[1] + extent[0] <= size:
        return None
    return f"the header declares {extent[0]} bytes of audio, found {size - extent[1]}"


def declared_frames(path: Path, container: str, subtype: str, channels: int) -> int | None:
    """Return the number of samples per channel that the header declares.

    It is None where libsndfile keeps to the header, and where no size is declared. In W64 and NIST
    SPHERE, libsndfile decodes whatever follows the audio. In a WAV with an odd number of GSM
    blocks, it decodes the byte of padding after them as one more block.
    """
    if container not in ("W64", "NIST") and not (container in ("WAV", "WAVEX") and subtype == GSM):
        return None
    unit, samples = GSM_BLOCK if subtype == GSM else (SAMPLE_BYTES.get(subtype, 0) * channels, 1)
    if not unit:
        return None
    with path.open("rb") as file:
        try:
            extent = _extent(file, path.stat().st_size, container)
        except struct.error:
            return None
    return None if extent is None else extent[0] // unit * samples


def _extent(file: BinaryIO, size: int, container: str) -> Extent | None:
    """Return the audio that a header declares; None if it declares none.

    struct.error if the header ends before the audio.
    """
    locate = LOCATE.get(container)
    extent = None if locate is None else locate(file, size)
    return None if extent is None or extent[0] in UNKNOWN_SIZES else extent


def _unpack(file: BinaryIO, offset: int, form: str) -> tuple[int, ...]:
    file.seek(offset)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _chunks(file: BinaryIO, offset: int, size: int, form: str, align: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size and offset of the first byte of each chunk.

    `form` is the struct format of its header (name, size).
    """
    while offset + struct.calcsize(form) <= size:
        first = offset + struct.calcsize(form)
        file.seek(offset)
        name, length = struct.unpack(form, file.read(first - offset))
        yield name, length, first
        offset = first + -(-length // align) * align  # chunks are padded to a multiple of `align`


def _riff(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of WAV and RF64, whose 64-bit sizes are in `ds64` before the audio.

    A program that writes into a pipe cannot correct the size afterwards, and writes one of 2 GB or
    more. The price of accepting these: a truncated WAV of really 2 GB or more is taken for a
    complete stream.
    """
    file.seek(0)
    form = ">4sI" if file.read(4) == b"RIFX" else "<4sI"
    large = None
    for name, length, first in _chunks(file, 12, size, form, 2):
        if name == b"ds64":
            (large,) = _unpack(file, first + 8, "<Q")  # after the 64-bit size of the whole file
        if name == b"data":
            if large is None and length >= STREAMED_RIFF:
                return None
            return length if large is None else large, first
    raise struct.error(HEADER_ENDS)


def _w64(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of Sony Wave64: names of 16 bytes, sizes with the chunk's own header."""
    offset = 40
    while offset + 24 <= size:
        file.seek(offset)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"data":
            return (length - 24, offset + 24) if length >= 24 else None
        # padded to 8 bytes; at least the header, so that the loop ends
        offset += max(24, -(-length // 8) * 8)
    raise struct.error(HEADER_ENDS)


def _aiff(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of AIFF, whose audio is the chunk `SSND`."""
    for name, length, first in _chunks(file, 12, size, ">4sI", 2):
        if name == b"SSND":
            return length, first
    raise struct.error(HEADER_ENDS)


def _caf(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of Apple's CAF, whose chunks have 64-bit sizes and no padding."""
    for name, length, first in _chunks(file, 8, size, ">4sQ", 1):
        if name == b"data":
            return length, first
    raise struct.error(HEADER_ENDS)


def _au(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of Sun's AU: after its name, the header has its offset and size."""
    file.seek(0)
    first, declared = _unpack(file, 4, ">II" if file.read(4) == b".snd" else "<II")
    return declared, first


def _nist(file: BinaryIO, size: int) -> Extent | None:
    """Locate the audio of NIST SPHERE: a text header, whose second line is its size."""
    header = file.read(1024).decode("latin-1")
    # libsndfile writes some numbers as strings, such as `sample_n_bytes -s1 1`
    fields = dict(re.findall(r"^(\w+) -(?:i|s\d+) (\d+)", header, re.MULTILINE))
    try:
        first = int(header.split("\n")[1])
        declared = math.prod(int(fields[name]) for name in NIST_SIZES)
    except (IndexError, ValueError, KeyError):
        return None
    return declared, first


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Check Ogg (RFC 3533): the last page must be complete and have the flag of a last page."""
    page = last_ogg_page(file, size)
    # a page header: 26 bytes, the number of segments, then the size of each segment
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    complete = bool(segments) and 27 + len(segments) + sum(segments) <= len(page)
    ends = complete and page[5] & OGG_LAST
    return None if ends else "the last page of the stream is missing"


LOCATE = {
    "WAV": _riff, "WAVEX": _riff, "RF64": _riff, "W64": _w64, "AIFF": _aiff, "AU": _au, "CAF": _caf, "NIST": _nist,
}  # fmt: skip
CONTAINERS = frozenset({*LOCATE, "OGG", "FLAC", "MP3"})
"""Containers (libsndfile's names) in which truncation is detected; no others are read."""
