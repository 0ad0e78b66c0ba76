"""Process that decodes audio for another one: `serve` answers requests on a socket until it is closed.

A message is a header, a pickled object, and for an answer the samples as raw float32: in memory that
both processes share if they fit there, which saves two copies by the kernel, else in the socket. The
object has built-in types only, which are pickled several times as fast as dataclasses and arrays.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import struct
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from features.audio.decoding import Decoded, decode
from features.audio.file_state import FileState
from features.audio.resampling import Samples
from features.audio.segment import Channel as AudioChannel
from features.errors import InputError

HEADER = struct.Struct("<QQ?")
"""Bytes of the pickled object and of the samples, and whether these are in the shared memory."""
SHARED_BYTES = 16 << 20
"""Bytes of the shared memory: about four minutes of audio at 16 kHz."""
RECEIVED_BYTES = 1 << 16
"""Maximum number of bytes that are received at once, before the samples."""
NO_SAMPLES = np.zeros(0, np.float32)


def serve(descriptor: int, memory: int | None) -> None:
    """Decode what is asked for on a socket.

    It ends when the other process ends, and not before: signals go to a whole process group, and
    the other process may want to finish its work. `memory` is the descriptor of the shared memory,
    if there is one.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        channel = Channel(connection, memory)
        while (request := channel.receive()) is not None:
            try:
                channel.send(*_answer(*request[0]))
            except (BrokenPipeError, ConnectionResetError):
                return


def request(path: Path, start: float, end: float | None, channel: AudioChannel) -> Any:
    """Return the message that asks for a segment; a relative path needs the current folder, which can change."""
    folder = None if path.is_absolute() else str(Path.cwd())
    return folder, str(path), start, end, channel


def _answer(folder: str | None, path: str, *segment: Any) -> tuple[Any, Samples]:
    """Return what was found and the messages of warnings, an InputError or a traceback; and the samples."""
    try:
        if folder is not None:
            os.chdir(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = decode(Path(path), *segment)
        messages = [str(warning.message) for warning in caught]
        return (tuple(found.state), found.sha256, found.fault, messages), found.samples
    except InputError as error:  # for example too many open files
        return error, NO_SAMPLES
    except Exception:
        return traceback.format_exc(), NO_SAMPLES


def decoded(message: Any, samples: Samples) -> Decoded:
    """Return the result of an answer, or raise the InputError in it; RuntimeError for a traceback."""
    if isinstance(message, InputError):
        raise message
    if isinstance(message, str):
        raise RuntimeError(f"a process that decodes audio failed:\n{message}")
    state, sha256, fault, messages = message
    for text in messages:
        warnings.warn(text, stacklevel=2)
    return Decoded(FileState(*state), samples, sha256, fault)


class Channel:
    """One end of the connection of two processes."""

    def __init__(self, connection: socket.socket, memory: int | None) -> None:
        self._connection = connection
        self._shared = NO_SAMPLES if memory is None else np.frombuffer(mmap.mmap(memory, SHARED_BYTES), np.float32)

    def send(self, message: Any, samples: Samples = NO_SAMPLES) -> None:
        """Send a message; OSError if the other process has ended."""
        pickled, fits = pickle.dumps(message), 0 < len(samples) <= len(self._shared)
        if fits:
            self._shared[: len(samples)] = samples
        self._connection.sendall(HEADER.pack(len(pickled), samples.nbytes, fits) + pickled)
        if not fits:
            self._connection.sendall(np.ascontiguousarray(samples).data.cast("B"))

    def receive(self) -> tuple[Any, Samples] | None:
        """Return the next message and its samples; None if the other process has ended."""
        found = self._at_least(b"", HEADER.size)
        if found is None:
            return None
        message_bytes, sample_bytes, is_shared = HEADER.unpack_from(found)
        end = HEADER.size + message_bytes
        found = self._at_least(found, end)
        if found is None:
            return None
        message, count = pickle.loads(memoryview(found)[HEADER.size : end]), sample_bytes // NO_SAMPLES.itemsize
        if is_shared:
            return message, self._shared[:count].copy()
        samples = np.empty(count, np.float32)
        is_complete = self._fill(samples.data.cast("B"), found[end:])
        return (message, samples) if is_complete else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _at_least(self, found: bytes, count: int) -> bytes | None:
        """Return received bytes, and more of them until there are `count`; None if the other process has ended."""
        while len(found) < count:
            try:
                more = self._connection.recv(max(RECEIVED_BYTES, count - len(found)))
            except ConnectionResetError:
                return None
            if not more:
                return None
            found += more
        return found

    def _fill(self, buffer: memoryview, found: bytes) -> bool:
        """Fill a buffer with received bytes, then from the socket; return whether the other process sent all."""
        buffer[: len(found)] = found
        left = buffer[len(found) :]
        while len(left):
            try:
                count = self._connection.recv_into(left, len(left), socket.MSG_WAITALL)
            except ConnectionResetError:
                return False
            if count == 0:
                return False
            left = left[count:]
        return True
