"""Claims: which process works on which unit of a store, so that several share the work and none waits for the dead.

A claim is a file that only one process can create. Its holder refreshes its time; a claim that was not refreshed for
`EXPIRY_S`, by the clock of the file system itself, is dead, and so is one whose process has ended on this machine. A
wrong verdict costs work done twice, never a wrong row: parts are whole, and equal rows have equal names.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from features.errors import InputError
from features.store.part import remove
from features.store.writer import new_token

FOLDER = "claims"
REMOVAL = "removal"
"""What is claimed by who removes the store: no unit can be claimed beside it."""
MAINTENANCE = "maintenance"
"""What is claimed by who compacts or converts the store."""
LOCK = "lock"
"""What is claimed where the file system cannot lock files."""
REFRESH_S = 15.0
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system says that has no hard links."""
EXPIRY_S = 180.0
"""Longer than a network file system shows an old time for."""


class Claims:
    """The claims of one process in the folders of one or more stores; a unit is held in all of them or in none."""

    def __init__(self, stores: Sequence[Path]) -> None:
        self.token = new_token()
        self.stores = list(stores)
        self._held: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> Claims:
        self.sweep()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for path in sorted(self._held):
            self._drop(path)
        for store in self.stores:
            (store / FOLDER / f".clock-{self.token}").unlink(missing_ok=True)
            for path in store.glob(f".*.{self.token}.tmp"):  # of a worker that was killed
                remove(path)
            with suppress(OSError):  # others hold claims in it
                (store / FOLDER).rmdir()

    def take(self, unit: str) -> bool:
        """Claim a unit; False where another process holds it. InputError if the store is being removed."""
        taken: list[Path] = []
        for store in self.stores:
            path = store / FOLDER / f"{unit}.json"
            if not self._create(path):
                for mine in taken:
                    self._drop(mine)
                return False
            self._held.add(path)
            taken.append(path)
            if unit != REMOVAL and path.with_name(f"{REMOVAL}.json").exists():
                self.release(unit)
                raise InputError(f"{store} is being removed by {', '.join(self.holders([REMOVAL]))}")
        return True

    def release(self, unit: str) -> None:
        """Give a unit back, done or not."""
        for store in self.stores:
            self._drop(store / FOLDER / f"{unit}.json")

    def held(self) -> set[str]:
        """Return the units that other processes hold in any of the stores."""
        found = set()
        for store in self.stores:
            with suppress(FileNotFoundError), os.scandir(store / FOLDER) as entries:
                found |= {entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")}
        return found - {REMOVAL, MAINTENANCE, LOCK} - {path.stem for path in self._held}

    def holders(self, units: Iterable[str]) -> list[str]:
        """Return who holds these units, as host:pid."""
        found = set()
        for store in self.stores:
            for unit in units:
                claim = _read(store / FOLDER / f"{unit}.json")
                if claim:
                    found.add(f"{claim['host']}:{claim['pid']}")
        return sorted(found)

    def sweep(self) -> None:
        """Remove dead claims, and the temporaries that no living claim's process is writing."""
        for store in self.stores:
            now, alive = self._file_system_time(store), {self.token}
            clocks = [_read(path) for path in (store / FOLDER).glob(".clock-*")]
            dead = {owner["token"] for owner in clocks if owner is not None and _has_ended(owner)}
            for path in (store / FOLDER).glob("*.json"):
                claim = _read(path)
                if claim is not None and not _is_dead(path, claim, now):
                    alive.add(claim["token"])
                elif claim is not None:
                    dead.add(claim["token"])
                    path.unlink(missing_ok=True)
                elif now - _time(path) > EXPIRY_S:  # its process died between creating and writing it
                    path.unlink(missing_ok=True)
            temporaries = [*store.glob(".*.tmp"), *(store / FOLDER).glob(".*.tmp")]
            for path in [*temporaries, *(store / FOLDER).glob(".clock-*")]:
                token = _token(path)
                if token not in alive and (token in dead or now - _time(path) > EXPIRY_S):
                    remove(path)

    def _create(self, path: Path) -> bool:
        """Create a claim, with its content in one step; False if it is there already."""
        written = path.with_name(f".{path.name}.{self.token}.tmp")
        while True:
            _make_folder(path.parent.parent)
            try:
                written.write_text(json.dumps({"token": self.token, **_this_process()}), "utf-8")
                try:
                    os.link(written, path)
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    with path.open("x", encoding="utf-8") as file:  # in two steps: between them it is nobody's
                        file.write(written.read_text("utf-8"))
            except FileExistsError:
                return False
            except FileNotFoundError:  # a process that ends has just removed the empty folder
                continue
            finally:
                written.unlink(missing_ok=True)
            return True

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        claim = _read(path)
        if claim is not None and claim["token"] == self.token:  # else it expired, and is another's by now
            path.unlink(missing_ok=True)

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            for path in list(self._held):
                with suppress(OSError):  # it expired while this machine slept
                    os.utime(path)

    def _file_system_time(self, store: Path) -> float:
        path = store / FOLDER / f".clock-{self.token}"  # says whose temporaries are of this token
        while True:
            _make_folder(store)
            with suppress(FileNotFoundError):  # a process that ends has just removed the empty folder
                path.write_text(json.dumps({"token": self.token, **_this_process()}), "utf-8")
                return path.stat().st_mtime


def _make_folder(store: Path) -> None:
    try:
        (store / FOLDER).mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f"{store} must be a feature store, but it was removed") from error


def _token(path: Path) -> str:
    """Return the token in the name of a temporary, `.NAME.TOKEN.tmp`, or of a clock, `.clock-TOKEN`."""
    return path.name.removeprefix(".clock-") if path.name.startswith(".clock-") else path.name.split(".")[-2]


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a claim says; None if it is gone or was never finished."""
    try:
        claim = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return claim if isinstance(claim, dict) and {"token", "host", "pid", "machine", "started"} <= claim.keys() else None


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> list[str]:
    """Return what tells processes that share this one's process numbers: host, boot and namespace."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return found


def _started(pid: int) -> int | None:
    """Return when a process began, in ticks since boot, so that a number used again is noticed.

    None if it has ended, or where the system does not tell.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) if fields[0] not in "ZX" else None


def _is_dead(path: Path, claim: dict[str, Any], now: float) -> bool:
    if _has_ended(claim):
        return True
    return abs(now - _time(path)) > EXPIRY_S  # its holder would have refreshed a time in the future, too


def _has_ended(claim: dict[str, Any]) -> bool:
    """Tell whether the process of a claim or a clock is known to have ended: it was one of this machine."""
    if claim["machine"] != _machine():
        return False
    try:
        os.kill(claim["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(claim["started"] != _started(claim["pid"]))
