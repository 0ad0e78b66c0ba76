"""Frames of MP3 files: libsndfile reads as many as the Xing header declares, and without one as many as it guesses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

XING = re.compile(rb"\0*(\xff.{3})(?:.{9}|.{17}|.{32})(?:Xing|Info)(.{4})(.{4})(.{4})", re.DOTALL)
"""First frame of an MP3: its header, and flags, number of frames and number of bytes of the stream."""
XING_BYTES = 4096
"""Bytes in which this frame must be; a frame has at most 1 441."""
DECLARED = re.compile(rb"\0*\xff.{3}(?:.{9}|.{17}|.{32})(?:Xing|Info|VBRI)", re.DOTALL)
"""First frame that can declare the length."""
KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Bit rates of layer III in MPEG-1, and in MPEG-2 and 2.5."""
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hz, by the bits of the version: MPEG-1, 2 and 2.5."""
SAMPLES_PER_BYTE = 32
"""Upper bound for plausible MP3 files: the maximum is 24 (8 kbit/s at 24 kHz)."""
FRAME_SAMPLES = 1152
"""Maximum number of samples of a frame: a guess can be off by less for a constant bit rate."""
MAX_TAGS = 8
"""Maximum number of tags between two frames."""


class Frames(NamedTuple):
    """All frames of an MP3 without a header that declares its length."""

    num_samples: int
    """Samples per channel of the complete frames."""
    is_cut: bool
    """Whether the last frame is incomplete."""


def count_frames(path: Path) -> Frames | None:
    """Count the frames of an MP3; None if a header declares the length, or for bytes that are neither frame nor tag.

    Raises OSError if the file cannot be read.
    """
    status = path.stat()
    return _count(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _count(path: Path, size: int, _mtime_ns: int) -> Frames | None:
    with path.open("rb") as file:
        start = after_tag(file, 0)
        file.seek(start)
        head = file.read(XING_BYTES)
        if DECLARED.match(head) or not frame_bytes(head[:4]):
            return None
        samples, end = 0, start
        for offset, header in frames(file, start):
            end = offset + frame_bytes(header)
            if end > size:
                return Frames(samples, True)
            samples += 1152 if header[1] >> 3 & 3 == 3 else 576
        for _ in range(MAX_TAGS):
            end = after_tag(file, end)
        file.seek(end)
        if size - end in (1, 2, 3) and file.read(1) == b"\xff":  # a part of a header
            return Frames(samples, True)
        return Frames(samples, False) if end >= size else None


def find_truncation(path: Path, num_samples: int) -> str | None:
    """Describe what is missing in an MP3 of which libsndfile reads this many samples per channel."""
    if num_samples > SAMPLES_PER_BYTE * path.stat().st_size:
        return f"the header says {num_samples} samples, too many for its bytes"
    counted = count_frames(path)
    return "the last frame is incomplete" if counted is not None and counted.is_cut else None


def find_unread(path: Path, num_samples: int) -> str | None:
    """Describe the frames of an MP3 that are left out if only this many samples per channel are read."""
    counted = count_frames(path)
    if counted is None or counted.num_samples - num_samples < FRAME_SAMPLES:
        return None
    return f"found none, and {counted.num_samples} samples where the first frame lets expect {num_samples}"


def frames(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the header of each frame; tags between two frames are skipped."""
    tags = 0
    while tags <= MAX_TAGS:
        file.seek(offset)
        header = file.read(4)
        length = frame_bytes(header)
        if length:
            yield offset, header
            offset += length
            continue
        after = after_tag(file, offset)
        if after == offset:
            return
        offset = after
        tags += 1


def after_tag(file: BinaryIO, offset: int) -> int:
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


def frame_bytes(header: bytes) -> int:
    """Return the length of a frame of layer III from its header of 4 bytes; 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in RATES or kbps in (0, 15) or rate == 3:
        return 0
    table, factor = (KBPS_1, 144_000) if version == 3 else (KBPS_2, 72_000)
    return factor * table[kbps] // RATES[version][rate] + (header[2] >> 1 & 1)
