"""MP3 files that do not declare their length: libsndfile guesses it from the first frame, and reads no further."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

XING = re.compile(rb"\0*(\xff.{3})(?:.{9}|.{17}|.{32})(?:Xing|Info)(.{4})(.{4})(.{4})", re.DOTALL)
"""First frame of an MP3: its header, and flags, number of frames and number of bytes of the stream."""
XING_BYTES = 4096
"""Bytes in which this frame must be; a frame has at most 1 441."""
INFO = re.compile(rb".{4}(?:.{9}|.{17}|.{32})(Xing|Info|VBRI)(.{4})(.{4})", re.DOTALL)
"""First frame that holds facts about the file, and no audio; of Xing and Info, its flags and number of frames."""
RESYNC_BYTES = 1 << 16
"""Bytes without a frame after which the audio is over, or has not begun."""
MAX_RATIO = 64
"""More than the ratio of the largest and the smallest frame of a file, which is 40."""
CHAIN = 3
"""Number of frames, one after the other, that other bytes do not look like."""
KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Bit rates of layer III in MPEG-1, and in MPEG-2 and 2.5."""
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Hz, by the bits of the version: MPEG-1, 2 and 2.5."""
SAMPLES_PER_BYTE = 32
"""Upper bound for plausible MP3 files: the maximum is 24 (8 kbit/s at 24 kHz)."""
MAX_TAGS = 8
"""Maximum number of tags between two frames."""


class Frames(NamedTuple):
    """The frames of an MP3 that does not declare its length."""

    first: int
    """Offset of the first one."""
    end: int
    """Offset after the last complete one."""
    num_samples: int
    """Samples per channel."""
    is_cut: bool
    """Whether an incomplete frame follows."""


def count_frames(path: Path) -> Frames | None:
    """Find all frames of an MP3; None if it declares their number, or has none.

    Raises OSError if the file cannot be read.
    """
    status = path.stat()
    return _count(path, status.st_size, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=64)
def _count(path: Path, size: int, _state: tuple[int, int, int]) -> Frames | None:
    with path.open("rb") as file:
        first = _next_frame(file, 0)
        if first is None:
            return None
        file.seek(first)
        info = INFO.match(file.read(64))
        if info is not None and info[1] != b"VBRI" and info[2][3] & 1 and any(info[3]):
            return None
        found = list(_all_frames(file, first))
        if info is not None:
            found = found[1:]
        complete = [(at, header) for at, header in found if at + frame_bytes(header) <= size]
        if not complete:
            return None
        last, header = complete[-1]
        samples = sum(1152 if each[1] >> 3 & 3 == 3 else 576 for _, each in complete)
        end = last + frame_bytes(header)
        return Frames(complete[0][0], end, samples, len(complete) < len(found))


def _all_frames(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the header of each frame from an offset on, whatever stands between and after them."""
    while (start := _next_frame(file, end)) is not None:
        for offset, header in frames(file, start):
            yield offset, header
            end = offset + frame_bytes(header)


def _next_frame(file: BinaryIO, offset: int) -> int | None:
    """Return the offset of the next frame that others follow; None if there is none."""
    for _ in range(MAX_TAGS):
        offset = after_tag(file, offset)
    file.seek(offset)
    block = file.read(RESYNC_BYTES)
    place = block.find(b"\xff")
    while place >= 0:
        chain = []
        for _, header in frames(file, offset + place):
            chain.append((header[1], header[2] & 12))  # version, layer and rate
            if len(chain) == CHAIN:
                break
        if len(chain) == CHAIN and len(set(chain)) == 1:
            return offset + place
        place = block.find(b"\xff", place + 1)
    return None


class LongFile(io.RawIOBase):
    """The frames of an MP3, as the start of a file that seems to be long enough for all of them.

    libsndfile divides the size of a file by that of its first frame, and reads no more frames than this.
    """

    def __init__(self, path: Path, found: Frames) -> None:
        """Open the file; raises OSError."""
        self.name = str(path)
        self._file = path.open("rb", buffering=0)
        self._first, self._length = found.first, found.end - found.first
        self._size = MAX_RATIO * self._length
        self._at = 0
        self.error: BaseException | None = None
        """What ended the last read: libsndfile calls it, and would only see the end of the file."""

    def __repr__(self) -> str:
        return repr(self.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the start, the current place or the end that the file seems to have."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read bytes of frames, or of no tag at the end, into a buffer and return their number."""
        try:
            self._file.seek(self._first + self._at)
            data = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        except BaseException as error:
            self.error = error
            return 0
        if self._at >= self._size - 128:
            data = bytes(min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def find_truncation(path: Path, num_samples: int) -> str | None:
    """Describe what is missing in an MP3 of which libsndfile reads this many samples per channel."""
    if num_samples > SAMPLES_PER_BYTE * path.stat().st_size:
        return f"the header says {num_samples} samples, too many for its bytes"
    counted = count_frames(path)
    return "the last frame is incomplete" if counted is not None and counted.is_cut else None


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
