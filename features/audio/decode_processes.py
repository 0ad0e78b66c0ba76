"""DecodeProcesses: processes that decode audio for the threads of this one.

Threads could decode too, but each holds Python's lock for a part of the time, and an encoder that
launches hundreds of small operations on a GPU waits for the lock at each of them. A decoder that
crashes or hangs in native code ends a process here, not the extraction.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from features.audio.decode_process import NO_SAMPLES, SHARED_BYTES, Channel, decoded, request
from features.audio.decoding import Decoded, unreadable_now
from features.audio.file_state import UNKNOWN
from features.audio.segment import SYSTEM_ERROR
from features.audio.segment import Channel as AudioChannel
from features.child_python import python_command
from features.errors import InputError

ATTEMPTS = 2
"""Processes that may end while they decode one segment; the memory of the machine may have been full."""
LIMIT_S = 3600.0
"""Seconds within which a process must answer, also for audio of many hours. An extraction and a prediction have
shorter limits for shorter audio."""
CLOSE_S = 5.0
"""Maximum number of seconds that `close` waits for a process: one that waits for a disk may not end."""
START = """
from features.audio.decode_process import serve
serve({descriptors})
"""
"""Code of a process."""


class EndedError(Exception):
    """A process ended while it decoded a segment."""


class TooLongError(EndedError):
    """A process did not answer in time."""


class DecodeProcess:
    """A process that decodes one segment at a time."""

    def __init__(self) -> None:
        try:
            self._start()
        except OSError as error:
            raise InputError(
                f"a process that decodes audio must start, found: {error}. Use fewer --workers, or 0, or raise the "
                "limits of open files and processes"
            ) from error

    def _start(self) -> None:
        connection, other = socket.socketpair()
        connection.settimeout(LIMIT_S)
        memory = _shared_memory()
        passed = [other.fileno(), *memory]
        try:
            self._channel = Channel(connection, memory[0] if memory else None)
            code = START.format(descriptors=", ".join(map(str, passed)) + ", None" * (2 - len(passed)))
            self._process = subprocess.Popen(
                python_command(code),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # it resamples with one thread
            )
        except BaseException:
            connection.close()
            raise
        finally:
            for descriptor in memory:
                os.close(descriptor)
            other.close()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def decode(self, path: Path, start: float, end: float | None, channel: AudioChannel) -> Decoded:
        """Decode a segment; EndedError if the process ends, TooLongError after `LIMIT_S`."""
        answer = None
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._channel.send(request(path, start, end, channel))
                answer = self._channel.receive()
        except TimeoutError as error:
            raise TooLongError(f"it was not decoded within {LIMIT_S:.0f} s") from error
        if answer is None:
            raise EndedError(f"the process that decoded it ended with {self._end()}")
        return decoded(*answer)

    def kill(self) -> None:
        """End the process; a thread that waits for it gets EndedError."""
        self._process.kill()

    def disconnect(self) -> None:
        """Close the connection of this process, which may be a fork of the one that started the other."""
        self._channel.close()

    def close(self) -> None:
        """End the process, which decodes nothing now."""
        self.disconnect()
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)

    def _end(self) -> str:
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _shared_memory() -> list[int]:
    """Return the descriptor of new memory that can be shared; nothing if the system gives none."""
    if not hasattr(os, "memfd_create"):
        return []
    memory = -1
    try:
        memory = os.memfd_create("mervn-decode")
        os.truncate(memory, SHARED_BYTES)  # pages take memory when they are written
    except OSError:  # for example a limit on the size of files
        if memory >= 0:
            os.close(memory)
        return []
    return [memory]


class DecodeProcesses:
    """Pool of processes; each thread that decodes has one for itself meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[DecodeProcess] = []
        self._busy: dict[threading.Thread, DecodeProcess] = {}
        self._abandoned: set[threading.Thread] = set()
        """Threads whose segment is not tried again."""

    def decode(self, path: Path, start: float, end: float | None, channel: AudioChannel) -> Decoded:
        """Decode a segment in another process; InputError if none can be started.

        If that process ends, a new one tries again. If that one ends too, or if a process takes too long, the
        audio has a fault.
        """
        thread, reason = threading.current_thread(), ""
        for _ in range(ATTEMPTS):
            process = self._take(thread)
            try:
                found = process.decode(path, start, end, channel)
            except EndedError as error:
                process.close()
                reason = str(error)
                if thread in self._abandoned or isinstance(error, TooLongError):
                    break
            except BaseException:  # part of a message may be left in the socket
                process.close()
                raise
            else:
                with self._lock:
                    self._idle.append(process)
                return found
            finally:
                self._busy.pop(thread, None)
        return Decoded(UNKNOWN, NO_SAMPLES, "", (SYSTEM_ERROR, unreadable_now(path, reason)))

    def abandon(self, thread: threading.Thread) -> None:
        """End the process of a thread whose segment takes too long."""
        self._abandoned.add(thread)
        process = self._busy.get(thread)
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End all processes."""
        for process in [*self._busy.values(), *self._idle]:  # all of them, before the first one is waited for
            process.kill()
        while self._idle:
            self._idle.pop().close()

    def forget(self) -> None:
        """Leave the processes to the process that this one was forked from."""
        for process in [*self._busy.values(), *self._idle]:
            process.disconnect()
        # a thread of the other process may have held the lock
        self._lock, self._idle, self._busy, self._abandoned = threading.Lock(), [], {}, set()

    def _take(self, thread: threading.Thread) -> DecodeProcess:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None:
            process = DecodeProcess()
        self._busy[thread] = process
        return process


def _end_all() -> None:
    with suppress(KeyboardInterrupt):  # it comes while this process ends
        PROCESSES.close()


PROCESSES = DecodeProcesses()
"""The processes of this one; they stay until it ends."""
atexit.register(_end_all)
os.register_at_fork(after_in_child=PROCESSES.forget)
