"""Second streams: files that were joined byte by byte, of which libsndfile reads only the first one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

OGG_FIRST = 2
"""Header flag of the first page of a stream."""
OGG_TAIL = 1 << 17
"""Bytes at the end within which the last page begins: a page has at most 65 307."""
OGG_STREAMS = 16
"""Maximum number of streams of one file that begin together, such as audio and a video."""
XING = re.compile(rb"\0*(\xff.{3})(?:.{9}|.{17}|.{32})(?:Xing|Info)(.{4})(.{4})(.{4})", re.DOTALL)
"""First frame of an MP3: its header, and flags, number of frames and number of bytes of the stream."""
XING_BYTES = 4096
"""Bytes in which this frame must be; a frame has at most 1 441."""
MP3_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MP3_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Bit rates of layer III in MPEG-1, and in MPEG-2 and 2.5."""
MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hz, by the bits of the version: MPEG-1, 2 and 2.5."""
MP3_FRAMES = 5
"""Frames after the declared end that are a second stream: encoders count the first frame or not."""
MP3_TAGS = 8
"""Maximum number of tags between two streams."""


def find_second_stream(path: Path, container: str) -> str | None:
    """Describe audio after the first stream of an Ogg or MP3 file; None if there is none.

    `container` is libsndfile's name of the format. A second stream of Ogg is not found if the last stream has
    the number of the first one, a second stream of MP3 is not found without a Xing header.
    """
    if container not in ("OGG", "MP3"):
        return None
    with path.open("rb") as file:
        size = path.stat().st_size
        return _ogg(file, size) if container == "OGG" else _mp3(file, size)


def last_ogg_page(file: BinaryIO, size: int) -> bytes:
    """Return the last page of an Ogg file and what follows it; nothing if there is no page."""
    file.seek(max(0, size - OGG_TAIL))
    tail = file.read()
    page = tail.rfind(b"OggS")
    return tail[page:] if page >= 0 else b""


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Compare the stream of the last page with those that begin the file (RFC 3533)."""
    first, offset = set(), 0
    for _ in range(OGG_STREAMS):
        file.seek(offset)
        page = file.read(27 + 255)
        if len(page) < 27 or page[:4] != b"OggS" or not page[5] & OGG_FIRST:
            break
        first.add(page[14:18])
        offset += 27 + page[26] + sum(page[27 : 27 + page[26]])
    else:
        return None
    last = last_ogg_page(file, size)[14:18]
    return None if last in first else "the last page is of another stream than the first one"


def _mp3(file: BinaryIO, size: int) -> str | None:
    """Look for frames after the last byte that the Xing header declares."""
    start = _after_tag(file, 0)
    file.seek(start)
    found = XING.match(file.read(XING_BYTES))
    if found is None or not _frame_bytes(found[1]) or found[2][3] & 3 != 3:  # 3: both numbers are valid
        return None
    declared = int.from_bytes(found[4], "big")
    end = start + found.start(1) + declared
    if not declared or end >= size:
        return None
    for number, _ in enumerate(_frames(file, end), 1):
        if number == MP3_FRAMES:
            return f"there are frames after the {declared} bytes that the header declares"
    return None


def _frames(file: BinaryIO, offset: int) -> Iterator[int]:
    """Yield the offset of each MP3 frame; tags between two frames are skipped."""
    tags = 0
    while tags <= MP3_TAGS:
        file.seek(offset)
        length = _frame_bytes(file.read(4))
        if length:
            yield offset
            offset += length
            continue
        after = _after_tag(file, offset)
        if after == offset:
            return
        offset = after
        tags += 1


def _after_tag(file: BinaryIO, offset: int) -> int:
    """Return the offset after a tag of ID3 or APE that begins at `offset`; the same one without a tag."""
    file.seek(offset)
    head = file.read(32)
    if head[:3] == b"TAG":
        return offset + 128
    if head[:3] == b"ID3" and len(head) >= 10:
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        return offset + 10 + length + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return offset + 32 + int.from_bytes(head[12:16], "little")
    return offset


def _frame_bytes(header: bytes) -> int:
    """Return the length of a frame of layer III from its header of 4 bytes; 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in MP3_RATES or kbps in (0, 15) or rate == 3:
        return 0
    table, factor = (MP3_KBPS_1, 144_000) if version == 3 else (MP3_KBPS_2, 72_000)
    return factor * table[kbps] // MP3_RATES[version][rate] + (header[2] >> 1 & 1)
