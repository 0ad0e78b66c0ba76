"""DecodeProcesses: other processes decode to the same samples, and one that hangs or ends takes nothing with it."""

import errno
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import decode_processes
from features.audio.decode_processes import DecodeProcesses
from features.audio.decoding import decode
from features.audio.segment import Channel
from features.errors import InputError

STOP = """
import os, signal
from features.audio import decode_process
from features.errors import InputError
decode = decode_process.decode
def fail(path, *rest):
    if path.stem == "fatal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem == "once" and not path.with_suffix(".seen").exists():
        path.with_suffix(".seen").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if path.stem == "hangs":
        signal.pause()
    if path.stem == "limit":
        raise InputError("too many open files")
    if path.stem == "bug":
        raise KeyError("a bug")
    return decode(path, *rest)
decode_process.decode = fail
"""
WARN = """
import warnings
from features.audio import decode_process
decode = decode_process.decode
decode_process.decode = lambda *segment: (warnings.warn("careful"), decode(*segment))[1]
"""


@pytest.fixture
def processes() -> Iterator[DecodeProcesses]:
    pool = DecodeProcesses()
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that can be decoded, and some whose names mean a fault to `failing`."""
    folder = tmp_path_factory.mktemp("audio")
    for i, (name, rate) in enumerate({"a.wav": 16_000, "b.flac": 44_100, "c.ogg": 22_050}.items()):
        soundfile.write(folder / name, np.stack([wave(1.0 + i, i, rate), wave(1.0 + i, 9, rate)], axis=1), rate)
    for name in ("fatal", "once", "hangs", "bug", "limit"):
        soundfile.write(folder / f"{name}.wav", wave(0.2, 0), 16_000)
    return folder


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make processes fail at files of some names."""
    change_decode(monkeypatch, STOP)


def change_decode(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run code in the processes before they serve."""
    start = decode_processes.START
    serve = start.index("serve({")
    monkeypatch.setattr(decode_processes, "START", start[:serve] + code + start[serve:])


@pytest.mark.parametrize("channel", ["mix", 1])
def test_samples_are_those_of_this_process(files: Path, processes: DecodeProcesses, channel: Channel) -> None:
    for name in ("a.wav", "b.flac", "c.ogg", "missing.wav", "."):
        for start, end in ((0.0, None), (0.25, 0.75), (7.0, 8.0)):
            here, there = decode(files / name, start, end, channel), processes.decode(files / name, start, end, channel)
            assert (there.state, there.sha256, there.fault) == (here.state, here.sha256, here.fault)
            np.testing.assert_array_equal(there.samples, here.samples)
    assert len(processes._idle) == 1


def test_without_shared_memory_samples_are_the_same(
    files: Path, processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")  # as with `ulimit -f`

    monkeypatch.setattr(os, "truncate", refuse)
    here, there = (decode_(files / "a.wav", 0.0, None, "mix") for decode_ in (decode, processes.decode))
    np.testing.assert_array_equal(there.samples, here.samples)


def test_each_thread_has_a_process_for_itself(files: Path, processes: DecodeProcesses) -> None:
    together = threading.Barrier(3)

    def run() -> None:
        together.wait()
        assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(processes._idle) <= 3 and not processes._busy


def test_a_process_that_ends_is_replaced(failing: None, files: Path, processes: DecodeProcesses) -> None:
    assert processes.decode(files / "once.wav", 0.0, None, "mix").fault is None  # a second process decodes it
    reason, message = processes.decode(files / "fatal.wav", 0.0, None, "mix").fault or ("", "")
    assert reason == "system_error"
    assert "fatal.wav cannot be read now, found: the process that decoded it ended with signal 11." in message
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None


def test_a_process_that_hangs_is_ended(failing: None, files: Path, processes: DecodeProcesses) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(processes.decode(files / "hangs.wav", 0.0, None, "mix")))
    thread.start()
    wait_until(lambda: thread in processes._busy)
    time.sleep(0.05)
    assert thread.is_alive()
    processes.abandon(thread)
    thread.join(10)
    assert "signal 9" in found[0].fault[1] and not processes._busy


def test_a_file_that_takes_too_long_is_a_fault_of_its_audio(
    failing: None, files: Path, processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and pretraining, which do not know the duration before, waited forever."""
    monkeypatch.setattr(decode_processes, "LIMIT_S", 0.5)
    started = time.monotonic()
    reason, message = processes.decode(files / "hangs.wav", 0.0, None, "mix").fault or ("", "")
    assert reason == "system_error" and time.monotonic() - started < 5  # there is no second attempt
    assert "hangs.wav cannot be read now, found: it was not decoded within 0 s." in message
    assert not processes._busy and not processes._idle  # its process is gone
    monkeypatch.setattr(decode_processes, "LIMIT_S", 60.0)
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None


def test_a_process_that_cannot_be_ended_is_left_behind(
    files: Path, processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for a network disk ends only when the disk answers."""
    monkeypatch.setattr(decode_processes, "CLOSE_S", 0.05)
    processes.decode(files / "a.wav", 0.0, None, "mix")
    (process,) = processes._idle
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(process, "kill", lambda: None)
    processes.close()
    assert process._process.poll() is None
    process._process.kill()
    process._process.wait(10)


def test_an_unexpected_exception_is_raised_with_its_traceback(
    failing: None, files: Path, processes: DecodeProcesses
) -> None:
    with pytest.raises(RuntimeError, match="(?s)a process that decodes audio failed:.*KeyError: 'a bug'"):
        processes.decode(files / "bug.wav", 0.0, None, "mix")
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None


def test_an_error_of_the_user_is_raised_as_it_is(failing: None, files: Path, processes: DecodeProcesses) -> None:
    with pytest.raises(InputError, match="^too many open files$"):
        processes.decode(files / "limit.wav", 0.0, None, "mix")
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None


def test_a_process_that_cannot_start_is_a_clear_error(
    files: Path, processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(decode_processes.subprocess, "Popen", refuse)
    with pytest.raises(InputError, match="must start, found: .*temporarily unavailable. Use fewer --workers"):
        processes.decode(files / "a.wav", 0.0, None, "mix")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # at most the shared memory, until it is collected


def test_warnings_reach_this_process(files: Path, processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    change_decode(monkeypatch, WARN)
    with pytest.warns(UserWarning, match="careful"):
        processes.decode(files / "a.wav", 0.0, None, "mix")


def test_signals_of_the_group_do_not_end_a_process_but_its_user_does(files: Path, processes: DecodeProcesses) -> None:
    processes.decode(files / "a.wav", 0.0, None, "mix")
    (process,) = processes._idle
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None
    process.disconnect()  # as at the end of this process, however it ends
    assert process._process.wait(10) == 0
    processes._idle.clear()


def test_ctrl_c_while_the_processes_end_leaves_none_and_prints_nothing(
    processes: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a second Ctrl-C, the atexit callback ended in a traceback, and the other processes were not killed."""
    killed = []

    class Slow:
        def kill(self) -> None:
            killed.append(self)

        def close(self) -> None:
            raise KeyboardInterrupt

    pool = [Slow(), Slow(), Slow()]
    monkeypatch.setattr(processes, "_idle", pool.copy())
    monkeypatch.setattr(processes, "_busy", {threading.current_thread(): Slow()})
    monkeypatch.setattr(decode_processes, "PROCESSES", processes)
    decode_processes._end_all()
    assert len(killed) == 4 and set(pool) < set(killed)


def test_a_fork_starts_processes_of_its_own(files: Path, processes: DecodeProcesses) -> None:
    processes.decode(files / "a.wav", 0.0, None, "mix")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if not child:
        processes.forget()
        os._exit(processes._idle != [])
    assert os.waitpid(child, 0)[1] == 0
    assert processes.decode(files / "a.wav", 0.0, None, "mix").fault is None  # its connection is still open here


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def test_a_relative_path_is_that_of_the_folder_of_this_process_now(
    processes: DecodeProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process kept the folder in which it had started, and found no file, or another one."""
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        soundfile.write(tmp_path / str(number) / "a.wav", wave(0.2, number), 16_000)
    for number in (0, 1, 2, 0):
        monkeypatch.chdir(tmp_path / str(number))
        found = processes.decode(Path("a.wav"), 0.0, None, "mix")
        assert found.sha256 == decode(Path("a.wav"), 0.0, None, "mix").sha256
