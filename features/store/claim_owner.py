"""Owner of a claim: which process wrote it, and whether that process has ended.

Nothing is known about processes of another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """Content of a claim: the process that wrote it."""

    token: str
    host: str
    machine: list[str]
    """Host, boot and process namespace: process ids are comparable only within one of these."""
    pid: int
    started: int | None
    """Start time of the process, see `started_at`."""

    @classmethod
    def this_process(cls, token: str) -> Owner:
        """Return the owner of this process's claims."""
        pid = os.getpid()
        return cls(token, platform.node(), machine(), pid, started_at(pid))

    def json_text(self) -> str:
        """Return the content of the claim's file."""
        return json.dumps(asdict(self))

    @property
    def has_ended(self) -> bool:
        """True if the process is known to have ended; only known for processes of this machine."""
        if self.machine != machine():
            return False
        # another process may have the same id now
        return not _is_running(self.pid) or self.started != started_at(self.pid)

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Read a claim; None if the file does not exist, is incomplete or holds anything else."""
        try:
            claim = json.loads(path.read_text("utf-8"))
            owner = cls(claim["token"], claim["host"], claim["machine"], claim["pid"], claim["started"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        names = isinstance(owner.token, str) and isinstance(owner.host, str) and isinstance(owner.machine, list)
        return owner if names and type(owner.pid) is int and owner.pid > 0 else None


def machine() -> list[str]:
    """Return host, boot and process namespace: process ids are comparable only within these."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return found


def machine_digest() -> str:
    """Return 8 hex digits that identify this machine, from the sha256 of `machine`."""
    return hashlib.sha256("|".join(machine()).encode()).hexdigest()[:8]


def process_has_ended(token: str) -> bool:
    """Tell whether the process of a token is known to have ended.

    A token is PID-RANDOM-DIGEST. A process that was killed before it wrote its claim or clock left
    only the name of the file, which contains the token.
    """
    pid, digest = token.partition("-")[0], token.rpartition("-")[2]
    return digest == machine_digest() and pid.isdigit() and not _is_running(int(pid))


def _is_running(pid: int) -> bool:
    """Tell whether a process of this machine may be running; only False is certain."""
    try:
        os.kill(pid, 0)  # signal 0 only checks that the process exists
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def started_at(pid: int) -> int | None:
    """Return the start time of a process, in clock ticks since boot; it tells a reused process id.

    Returns None if the process has ended, or if the system does not provide it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    # the first field after the name is the state, the 20th the start time
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if fields[0] not in "ZX" else None
