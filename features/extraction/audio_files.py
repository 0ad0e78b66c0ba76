"""State and header of audio files, read in threads; the file of facts keeps them for the next time."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from features.audio.facts_file import FACTS_FILE, read_known, write_section
from features.audio.file_state import FileState, file_state
from features.audio.segment import AudioError, inspect_segment
from features.errors import InputError
from features.extraction.prefetch import LIMIT_S, Prefetch
from features.hash_index import HashIndex
from features.manifests.columns import Array
from features.progress import Reporter
from features.signals import check_interrupted
from features.texts import Texts

SECTION = "files"
FIELDS = ["wav_path", "size", "mtime_ns", "fingerprint", "rate", "num_samples", "num_channels"]
"""Columns of the file of facts: the file, its state, its header."""
EARLIER_FIELDS = [*FIELDS[:5], "num_frames", FIELDS[6]]
TASK_FILES = 64
"""Number of files that a thread reads at once."""


class Paths(Protocol):
    """Path in the manifest and path on disk of each of F files."""

    def __len__(self) -> int: ...

    def __getitem__(self, code: int, /) -> tuple[str, Path]: ...


class AudioHeader(NamedTuple):
    """Header of a file that ends where its header says; `rate` is 0 if it does not, or cannot be read."""

    rate: int
    """Hz."""
    num_frames: int
    """Samples per channel."""
    num_channels: int


NO_HEADER = AudioHeader(0, 0, 0)


class AudioFiles:
    """State and header of each of F files, in columns."""

    def __init__(self) -> None:
        self._sizes, self._mtimes = array("q"), array("q")
        self._fingerprints = bytearray()
        self._rates, self._frames = array("i"), array("q")
        self._channels = array("i")
        self.keep: Callable[[], object] = nothing
        """Writes new headers into the file of facts, if that waits for the features folder."""

    def append(self, state: FileState, header: AudioHeader) -> None:
        """Add a file."""
        self._sizes.append(-1 if state.size is None else state.size)
        self._mtimes.append(state.mtime_ns or 0)
        self._fingerprints += bytes.fromhex(state.fingerprint or "0" * 32) + bytes([state.fingerprint is not None])
        self._rates.append(header.rate)
        self._frames.append(header.num_frames)
        self._channels.append(header.num_channels)

    def __len__(self) -> int:
        return len(self._sizes)

    def state(self, number: int) -> FileState:
        """Return the state of a file."""
        size = self._sizes[number]
        digest = self._fingerprints[17 * number : 17 * number + 17]
        known = digest[:16].hex() if digest[16] else None
        return FileState(size, self._mtimes[number], known) if size >= 0 else FileState(None, None, known)

    def header(self, number: int) -> AudioHeader:
        """Return the header of a file."""
        return AudioHeader(self._rates[number], self._frames[number], self._channels[number])

    def columns(self) -> tuple[Array, Array, Array]:
        """Return rates, numbers of frames and numbers of channels; each (F,)."""
        return np.asarray(self._rates), np.asarray(self._frames), np.asarray(self._channels)


def nothing() -> None:
    """Do nothing: there is nothing new to keep."""


class KnownFiles:
    """The files of an earlier time, from the file of facts in a features folder."""

    def __init__(self, features_dir: Path) -> None:
        self.path = features_dir / FACTS_FILE
        self._set()
        try:
            for wav_path, size, mtime_ns, digest, *header in read_known(self.path, SECTION, FIELDS, EARLIER_FIELDS):
                self._files.append(FileState(size, mtime_ns, digest), AudioHeader(*header))
                self._paths.append(wav_path)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            self._set()
        self._index = HashIndex.of(self._paths, self._paths.__getitem__)
        self._wanted = bytearray(len(self._paths))

    def _set(self) -> None:
        self._paths, self._files = Texts(), AudioFiles()

    def find(self, wav_paths: Sequence[str]) -> list[tuple[FileState, AudioHeader] | None]:
        """Return the state and header of files; None if a file is not known."""
        found: list[tuple[FileState, AudioHeader] | None] = []
        for number in self._index.find(wav_paths).tolist():
            if number < 0:
                found.append(None)
            else:
                self._wanted[number] = True
                found.append((self._files.state(number), self._files.header(number)))
        return found

    def save(self, paths: Paths, files: AudioFiles, reporter: Reporter) -> None:
        """Write the files that were read now, and those of earlier times that were not asked for."""
        try:
            write_section(self.path, SECTION, FIELDS, self._entries(paths, files))
        except OSError as error:
            reporter.say(f"the headers of the audio are not kept, the next command reads them again: {error}")

    def _entries(self, paths: Paths, files: AudioFiles) -> Iterator[list[Any]]:
        written = set()
        for number in range(len(files)):
            wav_path, header = paths[number][0], files.header(number)
            if header.rate and wav_path not in written:
                written.add(wav_path)
                yield [wav_path, *files.state(number), *header]
        for number in range(len(self._paths)):
            if not self._wanted[number]:
                yield [self._paths[number], *self._files.state(number), *self._files.header(number)]


class _HeaderReader:
    """Reads states and headers of files; several threads can call it at once."""

    def __init__(self, paths: Paths, known: KnownFiles) -> None:
        self._paths, self._known = paths, known
        self._begun: dict[int, tuple[Path, float]] = {}
        """By the first file of a call, the file that is being read, and since when."""

    def read(self, first: int) -> list[tuple[FileState, AudioHeader, bool]]:
        """Return state and header of the files of one task, and whether the header was read now."""
        chosen = [self._paths[number] for number in range(first, min(first + TASK_FILES, len(self._paths)))]
        found = []
        for (_, path), before in zip(chosen, self._known.find([wav_path for wav_path, _ in chosen]), strict=True):
            self._begun[first] = path, time.monotonic()
            found.append(_read_file(path, before))
        del self._begun[first]
        return found

    def check_progress(self) -> None:
        """Raise InputError if a file takes longer than `LIMIT_S`, KeyboardInterrupt after Ctrl-C."""
        check_interrupted()
        for path, begun in list(self._begun.values()):
            if time.monotonic() - begun > LIMIT_S:
                raise InputError(
                    f"{path}: the header must be read within {LIMIT_S:.0f} s, but the disk or the network file system "
                    "does not answer. Run the same command again when it does, or take the file out of the manifest"
                )


def read_files(paths: Paths, features_dir: Path, *, save: bool, threads: int | None, reporter: Reporter) -> AudioFiles:
    """Return the state and header of each file; a header is read only if its file is new or has changed.

    With `save`, the headers are kept in the file of facts; `AudioFiles.keep` does it if the features
    folder does not exist yet. `threads` is the number of threads, by default one per core. InputError
    if a file is not read in time.
    """
    known, files, has_new = KnownFiles(features_dir), AudioFiles(), False
    reader, tasks = _HeaderReader(paths, known), range(0, len(paths), TASK_FILES)
    prefetch = Prefetch[int, list[tuple[FileState, AudioHeader, bool]]](
        reader.read, min(threads or os.cpu_count() or 1, len(tasks)), lambda found: 0, reader.check_progress
    )
    try:
        prefetch.add((first, None) for first in tasks)
        with closing(reporter.progress(len(paths), 0, "audio headers", " files")) as bar:
            for _ in tasks:
                found = prefetch.take()
                for state, header, is_new in found:
                    files.append(state, header)
                    has_new = has_new or is_new
                bar.update(len(found))
    finally:
        prefetch.close()
        if save and has_new:
            if features_dir.is_dir():
                known.save(paths, files, reporter)
            else:
                files.keep = partial(known.save, paths, files, reporter)
    return files


def _read_file(path: Path, known: tuple[FileState, AudioHeader] | None) -> tuple[FileState, AudioHeader, bool]:
    """Return state and header of a file, and whether the header was read now."""
    state = file_state(path)  # before the header: the file can change meanwhile
    if known is not None and known[0] == state and state.fingerprint is not None:
        return state, known[1], False
    try:
        info = inspect_segment(path, 0.0, None, "mix")
    except AudioError:  # the same call for a segment says why
        return state, NO_HEADER, False
    return state, AudioHeader(info.file_rate, info.last, info.num_channels), True
