"""Processes that start in milliseconds: forks of a server that has imported the toolkit and computed nothing.

A Python process that imports torch and transformers takes seconds of both cores before it does anything.
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, reduction
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_server: Any = forkserver._forkserver  # type: ignore[attr-defined]
_ports = itertools.count(random.SystemRandom().randrange(20_000, 30_000))
"""Ports below those that the system gives to programs that ask for any."""


def _start_server() -> None:
    """Start the server unless it runs; Python 3.11 does not give it the path of this process."""
    if forkserver.get_inherited_fds() is not None:  # this process is a fork of the server, which it can ask too
        mock.patch.object(_server, "ensure_running").start()
        return
    if _server._forkserver_address is not None and _server._forkserver_pid is None:  # see use_server
        return
    _CONTEXT.set_forkserver_preload(["warm_imports"])
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        forkserver.ensure_running()


def share_server() -> str:
    """Start the server for several processes that run tests; return its address."""
    _start_server()
    return str(_server._forkserver_address)


def use_server(address: str) -> None:
    """Ask the server at an address for processes; whoever has started it ends it."""
    _server._forkserver_address = address
    _, _server._forkserver_alive_fd = os.pipe()  # forks are given it
    mock.patch.object(_server, "ensure_running").start()


@dataclass(frozen=True)
class Finished:
    """The result of a process, as that of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


class WarmProcess:
    """A process that runs Python code as `python -c CODE ARGUMENT...` does.

    It leads a process group of its own, or joins `group`, the pid of another one's leader.
    """

    def __init__(
        self, code: str, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None, group: int = 0
    ) -> None:
        self._folder, self._lines_read = tempfile.mkdtemp(), 0
        self._outputs = [Path(self._folder) / name for name in ("stdout", "stderr")]
        environment = dict(os.environ) | dict(env or {})
        call = code, list(arguments), environment, str(Path.cwd()), self._outputs, group
        for path in self._outputs:
            path.touch()
        _start_server()
        self._process = _CONTEXT.Process(target=_run, args=call)
        self._process.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    # as those of subprocess.Popen

    @property
    def stdout(self) -> "WarmProcess":
        """The output of the process, of which lines can be read while it runs."""
        return self

    def readline(self) -> str:
        """Wait for the first line of the output; "" if the process ends without one."""
        while "\n" not in self._outputs[0].read_text("utf-8") and self.poll() is None:
            time.sleep(0.01)
        self._lines_read = 1
        return next(iter(self._outputs[0].read_text("utf-8").splitlines(keepends=True)), "")

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return what was printed and not read yet; TimeoutExpired if it runs longer."""
        self._process.join(timeout)
        if timeout is not None and self.poll() is None:
            raise subprocess.TimeoutExpired("python", timeout)
        done = self.finish()
        return "".join(done.stdout.splitlines(keepends=True)[self._lines_read :]), done.stderr

    def finish(self, timeout: float = 120) -> Finished:
        """Wait for the end; a process that is not done after `timeout` seconds is killed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        stdout, stderr = (path.read_text("utf-8") for path in self._outputs)
        shutil.rmtree(self._folder)
        return Finished(self._process.exitcode or 0, stdout, stderr)


class WarmPopen:
    """A process with pipes, started as `subprocess.Popen([PYTHON, "-c", CODE, ARGUMENT...])` starts one.

    A process that `WarmProcess` started can start it too.
    """

    def __init__(
        self, command: Sequence[str], *, stdin: int, stdout: int, stderr: IO[str], env: Mapping[str, str], encoding: str
    ) -> None:
        assert command[:2] == [sys.executable, "-c"] and stdin == stdout == subprocess.PIPE
        (stdin_read, stdin_write), (stdout_read, stdout_write) = _CONTEXT.Pipe(False), _CONTEXT.Pipe(False)
        call = command[2:], dict(env), str(Path.cwd()), [stdin_read, stdout_write], stderr.name, os.getpgid(0)
        _start_server()
        self._process, self._lock = _CONTEXT.Process(target=_run_with_pipes, args=call), threading.Lock()
        self._process.start()
        self.stdin = os.fdopen(os.dup(stdin_write.fileno()), "w", encoding=encoding)
        self.stdout = os.fdopen(os.dup(stdout_read.fileno()), encoding=encoding)
        for pipe in (stdin_read, stdin_write, stdout_read, stdout_write):
            pipe.close()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        with self._lock:  # only one thread can read it
            return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end and return the exit code; TimeoutExpired if it comes later."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("python", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


class WarmScript:
    """A process started as `subprocess.Popen([PYTHON, "-u", FILE, ARGUMENT...])` starts one, with inherited outputs.

    It leads a process group of its own.
    """

    def __init__(self, args: Sequence[str], env: Mapping[str, str], **_: object) -> None:
        assert args[:2] == (sys.executable, "-u")
        call = [Path(args[2]).read_text("utf-8"), *args[3:]], dict(env), str(Path.cwd()), list(map(_Inherited, (1, 2)))
        _start_server()
        self._process = _CONTEXT.Process(target=_run_with_outputs, args=call)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, at most `timeout` seconds."""
        self._process.join(timeout)
        return self.poll()


class _Inherited:
    """The number of an open file, which becomes its number in a process that is started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (reduction.DupFd(self.number),)


def _detached(duplicate: Any) -> int:
    return int(duplicate.detach())


WARM_SUBPROCESS = SimpleNamespace(Popen=WarmPopen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""What the module `subprocess` has for a study, whose processes are then forks."""


def start_studies_warm() -> None:
    """Start the processes of studies as forks, from now on."""
    import mervn.study.study_run

    mervn.study.study_run.subprocess = WARM_SUBPROCESS  # type: ignore[assignment]


def run_warm(code: str, arguments: Sequence[str] = (), timeout: float = 120) -> Finished:
    """Run Python code in a process of its own."""
    return WarmProcess(code, arguments).finish(timeout)


def start_ranks(code: str, arguments: Sequence[str], count: int) -> list[WarmProcess]:
    """Start processes that train together, with the variables that srun, torchrun and Accelerate set.

    Ctrl-C is for all.
    """
    port = _free_port()
    processes: list[WarmProcess] = []
    for rank in range(count):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        env = {key: str(value) for key, value in numbers.items()}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes.append(WarmProcess(code, arguments, env, processes[0].pid if processes else 0))
    return processes


def _free_port() -> int:
    """Return a free port that this process has not returned before."""
    while True:
        port = next(_ports)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def run_ranks(code: str, arguments: Sequence[str], count: int, timeout: float = 120) -> list[Finished]:
    """Run processes that train together; one that is not done after `timeout` seconds is killed."""
    return [process.finish(timeout) for process in start_ranks(code, arguments, count)]


def _run(code: str, arguments: list[str], env: dict[str, str], folder: str, outputs: list[Path], group: int) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    _execute([code, *arguments], env, folder, group)


def _run_with_pipes(
    call: list[str], env: dict[str, str], folder: str, pipes: list[Connection], log: str, group: int
) -> None:
    for number, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    _execute(call, env, folder, group)


def _run_with_outputs(call: list[str], env: dict[str, str], folder: str, outputs: list[int]) -> None:
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
    _execute(call, env, folder, 0)


def _execute(call: list[str], env: dict[str, str], folder: str, group: int) -> None:
    """Run code with arguments in this process, with all that a new process would have."""
    _join(group)
    multiprocessing.set_start_method(None, force=True)  # its own children are those of any other process
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    code, *sys.argv[1:] = call
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def _join(group: int) -> None:
    """Join a process group, whose leader may not have made it yet."""
    deadline = time.monotonic() + 10
    while True:
        try:
            os.setpgid(0, group)
            return
        except PermissionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
