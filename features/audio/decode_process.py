"""Process that decodes audio for another one: `serve` answers requests on a socket until it is closed.

A message is its length, a pickled object, and for an answer the samples as raw float32.
"""

from __future__ import annotations

import pickle
import signal
import socket
import struct
import traceback
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from features.audio.decoding import Decoded, decode
from features.audio.resampling import Samples

LENGTHS = struct.Struct("<QQ")
"""Bytes of the pickled object and of the samples."""
NO_SAMPLES = np.zeros(0, np.float32)


def serve(descriptor: int) -> None:
    """Decode what is asked for on a socket.

    It ends when the other process ends, and not before: signals go to a whole process group, and
    the other process may want to finish its work.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        while (request := receive(connection)) is not None:
            try:
                send(connection, *_answer(*request[0]))
            except (BrokenPipeError, ConnectionResetError):
                return


def _answer(*segment: Any) -> tuple[Any, Samples]:
    """Return (Decoded without samples, messages of warnings) or the text of an exception, and the samples."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = decode(*segment)
        messages = [str(warning.message) for warning in caught]
        return (replace(found, samples=NO_SAMPLES), messages), found.samples
    except Exception:
        return traceback.format_exc(), NO_SAMPLES


def send(connection: socket.socket, message: Any, samples: Samples = NO_SAMPLES) -> None:
    """Send a message; OSError if the other process has ended."""
    pickled, data = pickle.dumps(message), np.ascontiguousarray(samples).data.cast("B")
    connection.sendall(LENGTHS.pack(len(pickled), data.nbytes) + pickled)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[Any, Samples] | None:
    """Return the next message and its samples; None if the other process has ended."""
    lengths = _receive_bytes(connection, bytearray(LENGTHS.size))
    if lengths is None:
        return None
    message_bytes, sample_bytes = LENGTHS.unpack(lengths)
    pickled = _receive_bytes(connection, bytearray(message_bytes))
    samples = np.empty(sample_bytes // NO_SAMPLES.itemsize, np.float32)
    if pickled is None or _receive_bytes(connection, samples.data.cast("B")) is None:
        return None
    return pickle.loads(pickled), samples


def _receive_bytes(connection: socket.socket, buffer: Any) -> Any | None:
    """Fill a buffer and return it; None if the other process has ended."""
    view = memoryview(buffer)
    while len(view):
        try:
            count = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        except ConnectionResetError:
            return None
        if count == 0:
            return None
        view = view[count:]
    return buffer


def decoded(message: Any, samples: Samples) -> Decoded:
    """Return the result of an answer; RuntimeError if decoding raised an unexpected exception."""
    if isinstance(message, str):
        raise RuntimeError(f"a process that decodes audio failed:\n{message}")
    found, messages = message
    for text in messages:
        warnings.warn(text, stacklevel=2)
    return replace(found, samples=samples)
