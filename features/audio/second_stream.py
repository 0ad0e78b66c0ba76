"""Second streams: files that were joined byte by byte, of which libsndfile reads only the first one."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from features.audio.mpeg import XING, XING_BYTES, after_tag, frame_bytes, frames

OGG_FIRST = 2
"""Header flag of the first page of a stream."""
OGG_TAIL = 1 << 17
"""Bytes at the end within which the last page begins: a page has at most 65 307."""
OGG_STREAMS = 16
"""Maximum number of streams of one file that begin together, such as audio and a video."""
MP3_FRAMES = 5
"""Frames after the declared end that are a second stream: encoders count the first frame or not."""


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
    start = after_tag(file, 0)
    file.seek(start)
    found = XING.match(file.read(XING_BYTES))
    if found is None or not frame_bytes(found[1]) or found[2][3] & 3 != 3:  # 3: both numbers are valid
        return None
    declared = int.from_bytes(found[4], "big")
    end = start + found.start(1) + declared
    if not declared or end >= size:
        return None
    for number, _ in enumerate(frames(file, end), 1):
        if number == MP3_FRAMES:
            return f"there are frames after the {declared} bytes that the header declares"
    return None
