"""DecodedCopies: uncompressed copies of long compressed files, so that each file is decoded once.

In MP3, Ogg, GSM and ADPCM, a segment must be decoded from the start of its file: seeking is not
exact. A training or an extraction reads the segments of many long recordings in any order. The
first segments that need it make a copy of their file, and all further segments are read from it.

All processes of a user on a machine share the copies, in a folder below $TMPDIR or /var/tmp. A copy
has the name of a hash of the state of its file, and gets this name when it is complete. The last
process to end deletes the copies. After a crash, the next process does.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from features.audio.audio_file import AudioFile, Header
from features.audio.resampling import Samples

LONG_S = 60.0
"""Seconds of audio from which on a file is copied; the start of a shorter one is decoded quickly."""
COPY_AT, EVICT_AT = 0.25, 1.0
"""Fraction of a file that must be decoded and dropped, in all, before it is copied: a lower one if
there is room, a higher one if another copy must be deleted. So a file with a single segment near
its start is not copied, and copies that do not fit cost at most about twice the time without any."""
DISK_FRACTION = 0.5
"""Fraction of the free disk space that all copies may take."""
SETTLED_S = 2.0
"""Seconds after its last change from which on a file is copied: two changes within one tick of the
clock of a file system have equal times."""
POLL_S, WAIT_S = 0.05, 30.0
"""Seconds between two looks at a copy that another thread or process makes, and of all of them."""
LOCK_FILE, PARTIAL = "lock", ".part"


class DecodedCopies:
    """Copies of files as float32 (S, channels), read by segment.

    Threads and processes can read at once. Whatever prevents a copy costs time and no result: the
    segment is then decoded from the start of its file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock: dict[str, int] = {}
        """Descriptor of the lock file, once it is open: it tells other processes that the copies are in use."""
        self._is_off = False
        self._skipped: dict[str, float] = {}
        """By name of the copy, the fraction of its file that was decoded and dropped."""
        self._headers: dict[str, Header] = {}
        """By name of a copy that was read, the header of its file."""
        self._refused: set[str] = set()
        """Names of copies whose file cannot be decoded to its end."""
        self._has_warned = False

    @property
    def folder(self) -> Path:
        """The folder of the copies."""
        if self._folder is None:
            self._folder = _temporary_folder() / f"mervn-audio-{os.getuid()}-{platform.node()}"
        return self._folder

    def find(self, path: Path) -> tuple[Header, str] | None:
        """Return the header of a file of which this process has read a copy, and the copy's name.

        None if there is no copy of the file as it is now.
        """
        name = _copy_name(path) if self._headers else None
        header = None if name is None else self._headers.get(name)
        return None if header is None or name is None else (header, name)

    def read(self, name: str, header: Header, first: int, last: int) -> Samples | None:
        """Return the frames `first` to `last` of a copy, (S, channels); None if it cannot be read."""
        path, frames = self.folder / name, np.empty((last - first, header.channels), np.float32)
        try:
            with path.open("rb") as copy:
                copy.seek(4 * first * header.channels)
                num_bytes = copy.readinto(frames.data)
            os.utime(path)  # the copy that was not used for the longest time is deleted first
        except OSError:
            return None
        if num_bytes < frames.nbytes:
            return None
        self._headers[name] = header
        return frames

    def copy_and_read(self, path: Path, header: Header, first: int, last: int) -> Samples | None:
        """Return the frames `first` to `last` of a file from its copy, which is made if it is worth its cost.

        None if the caller must decode them from the start of the file.
        """
        if first == 0 or header.frames < LONG_S * header.samplerate or self._is_off:
            return None
        try:
            name = _copy_name(path)
            if name is None or name in self._refused:
                return None
            self._open_folder()
            frames = self.read(name, header, first, last)
            if frames is None and self._copy(path, name, header, first):
                frames = self.read(name, header, first, last)
        except OSError as error:
            self._is_off = True
            self._warn(f"found: {error}")
            return None
        return frames

    def close(self) -> None:
        """Delete all copies, unless another process uses them."""
        lock = self._lock.pop(LOCK_FILE, None)
        if lock is None:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete_copies(self.folder)
        except OSError:
            pass  # the last process to end deletes them
        os.close(lock)

    def _open_folder(self) -> None:
        """Make the folder, and delete the copies of a process that was killed. OSError if it cannot be used."""
        if self._lock:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{self.folder} is not a folder of this user alone")
        lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete_copies(self.folder)
            except BlockingIOError:
                pass  # another process uses the copies
            fcntl.flock(lock, fcntl.LOCK_SH)
        except OSError:
            os.close(lock)
            raise
        if self._lock.setdefault(LOCK_FILE, lock) != lock:  # another thread was first
            os.close(lock)
            return
        atexit.register(_close_in, os.getpid(), self)

    def _copy(self, path: Path, name: str, header: Header, first: int) -> bool:
        """Make the copy of a file if it is worth its cost; return whether it exists now."""
        skipped = self._skipped.get(name, 0.0) + first / header.frames
        self._skipped[name] = skipped
        if skipped < COPY_AT or not self._make_room(4 * header.frames * header.channels, skipped >= EVICT_AT):
            return False
        with os.fdopen(os.open(self.folder / f"{name}{PARTIAL}", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as partial:
            if not _lock_within(partial, WAIT_S):
                return False
            if (self.folder / name).exists():  # made while this process waited
                return True
            if os.fstat(partial.fileno()).st_nlink == 0:  # the other process could not make it
                return False
            if self._fill(path, name, partial):
                self._skipped.pop(name, None)
                return True
        self._refused.add(name)
        return False

    def _fill(self, path: Path, name: str, partial: BinaryIO) -> bool:
        """Decode a file into its copy and commit it.

        False if the file changes meanwhile or cannot be decoded to its end: each segment then gets
        the samples or the error that it gets without a copy.
        """
        is_complete = False
        try:
            partial.truncate(0)
            is_complete = _decode(path, partial) and _copy_name(path) == name
            if is_complete:
                partial.flush()
                (self.folder / f"{name}{PARTIAL}").replace(self.folder / name)
        except (RuntimeError, ValueError, TypeError):  # of the decoder
            is_complete = False
        finally:
            if not is_complete:
                (self.folder / f"{name}{PARTIAL}").unlink(missing_ok=True)
        return is_complete

    def _make_room(self, num_bytes: int, evict: bool) -> bool:
        """Tell whether another copy may take `num_bytes`.

        If `evict`, delete other copies for it, those first that were not used for the longest time.
        """
        copies = []
        for entry in os.scandir(self.folder):
            if entry.name != LOCK_FILE:
                with suppress(FileNotFoundError):  # another thread or process has just renamed or deleted it
                    status = entry.stat()
                    copies.append((status.st_mtime_ns, status.st_size, entry.path))
        used = sum(size for _, size, _ in copies)
        limit = self._limit(used)
        for _, size, copy in sorted(copies):
            if used + num_bytes <= limit or not evict or num_bytes > limit:
                break
            if not copy.endswith(PARTIAL):
                Path(copy).unlink(missing_ok=True)
                used -= size
        if used + num_bytes <= limit:
            return True
        self._warn(f"which allows {limit / 1e9:.2g} GB, found {(used + num_bytes) / 1e9:.2g} GB")
        return False

    def _limit(self, used: int) -> float:
        """Return how many bytes all copies may take; `used` bytes are taken."""
        return DISK_FRACTION * (shutil.disk_usage(self.folder).free + used)

    def _warn(self, found: str) -> None:
        """Say once per process that not every long file has a copy."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"uncompressed copies of long audio files must fit into half of the free space of {self.folder}, "
                f"{found}. Without a copy, each segment is decoded from the start of its file, which takes longer "
                "and gives the same samples. TMPDIR=FOLDER puts the copies on another disk",
                stacklevel=2,
            )


COPIES = DecodedCopies()
"""The copies of this process."""


def _temporary_folder() -> Path:
    """Return the folder for large temporary files: /tmp is often kept in memory."""
    if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK | os.X_OK):
        return Path("/var/tmp")
    return Path(tempfile.gettempdir())


def _copy_name(path: Path) -> str | None:
    """Return the name of the copy of a file: a hash of its state and of the decoder.

    None if the file does not exist, or has just been changed: its times may not tell the next change.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < SETTLED_S * 1e9:
        return None
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(f"{state}|{soundfile.__libsndfile_version__}".encode()).hexdigest()[:32]


def _decode(path: Path, output: BinaryIO) -> bool:
    """Write all frames of a file as float32; return whether it has as many as its header says."""
    with AudioFile(path) as file:
        num_frames = 0
        for frames in file.blocks_of(file.frames):
            output.write(np.ascontiguousarray(frames).data)
            num_frames += len(frames)
        return bool(num_frames == file.frames)


def _lock_within(file: BinaryIO, seconds: float) -> bool:
    """Lock a file; return False if another thread or process keeps it locked for that long."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _delete_copies(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.name != LOCK_FILE:
            Path(entry.path).unlink(missing_ok=True)


def _close_in(process: int, copies: DecodedCopies) -> None:
    """Delete the copies at the end of the process that opened their folder, not of its forks."""
    if os.getpid() == process:
        copies.close()
