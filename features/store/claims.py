"""Claims: files that record which process works on which unit of a store.

Only one process can create the file of a claim. Its holder updates the file's mtime. A claim is
dead if it was not updated for `EXPIRY_S` (by the clock of the file system) or if its process on
this machine has ended. A wrong decision only costs duplicate work, never correctness: parts are
immutable, and parts of equal utterances have equal names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from features.errors import InputError
from features.store.part import remove
from features.store.writer import new_token

FOLDER = "claims"
REMOVAL = "removal"
"""Claim of a process that removes the store: no unit can be claimed meanwhile."""
MAINTENANCE = "maintenance"
"""Claim of a process that compacts or converts the store."""
LOCK = "lock"
"""Claim that replaces a file lock if the file system has none."""
REFRESH_S = 15.0
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Error numbers of a file system without hard links."""
EXPIRY_S = 180.0
"""Longer than a network file system caches an old mtime."""


@dataclass(frozen=True)
class Owner:
    """Content of a claim: the process that wrote it."""

    token: str
    host: str
    machine: list[str]
    """Host, boot and process namespace: process ids are comparable only within one of these."""
    pid: int
    started: int | None
    """Start time of the process, see `_started`."""

    @classmethod
    def this_process(cls, token: str) -> Owner:
        """Return the owner of this process's claims."""
        pid = os.getpid()
        return cls(token, platform.node(), _machine(), pid, _started(pid))

    def json_text(self) -> str:
        """Return the content of a claim."""
        return json.dumps(asdict(self))

    @property
    def has_ended(self) -> bool:
        """True if the process is known to have ended; only known for processes of this machine."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)  # signal 0 only checks that the process exists
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return self.started != _started(self.pid)  # another process may have the same id now


class Claims:
    """The claims of one process in one or more stores.

    A unit is claimed in all of these stores or in none.
    """

    def __init__(self, stores: Sequence[Path]) -> None:
        self.token = f"{new_token()}-{_machine_digest()}"  # so that an empty file tells its process, too
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
            for path in store.glob(f".*.{self.token}.tmp"):  # left by a worker that was killed
                remove(path)
            with suppress(OSError):  # not empty: other processes have claims
                (store / FOLDER).rmdir()

    def take(self, unit: str) -> bool:
        """Claim a unit.

        Returns False if another process holds it. Raises InputError if the store is being removed.
        """
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
                raise InputError(f"{', '.join(self.holders([REMOVAL]))} is removing {store}")
        return True

    def release(self, unit: str) -> None:
        """Release a unit, whether it is done or not."""
        for store in self.stores:
            self._drop(store / FOLDER / f"{unit}.json")

    def held(self) -> set[str]:
        """Return the units that other processes hold in any of the stores."""
        found: set[str] = set()
        for store in self.stores:
            with suppress(FileNotFoundError), os.scandir(store / FOLDER) as entries:
                found.update(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))
        return found - {REMOVAL, MAINTENANCE, LOCK} - {path.stem for path in self._held}

    def holders(self, units: Iterable[str]) -> list[str]:
        """Return the processes that hold these units, as host:pid."""
        found = set()
        for store in self.stores:
            for unit in units:
                owner = _read(store / FOLDER / f"{unit}.json")
                if owner is not None:
                    found.add(f"{owner.host}:{owner.pid}")
        return sorted(found)

    def sweep(self) -> None:
        """Remove dead claims, and the temporary files of processes that have ended."""
        for store in self.stores:
            now = self._file_system_time(store)
            alive, dead = self._sweep_claims(store, now)
            temporaries = [*store.glob(".*.tmp"), *(store / FOLDER).glob(".*.tmp")]
            for path in [*temporaries, *(store / FOLDER).glob(".clock-*")]:
                token = _token(path)
                if token not in alive and (token in dead or now - _mtime(path) > EXPIRY_S):
                    remove(path)

    def _sweep_claims(self, store: Path, now: float) -> tuple[set[str], set[str]]:
        """Remove a store's dead claims.

        Returns the tokens of processes that live and of those that have ended.
        """
        alive, dead = {self.token}, set[str]()
        for path in (store / FOLDER).glob(".clock-*"):
            owner = _read(path)
            if owner.has_ended if owner is not None else _has_ended(_token(path)):
                dead.add(_token(path))
        for path in (store / FOLDER).glob("*.json"):
            owner = _read(path)
            # The absolute difference: an mtime in the future is not being updated either.
            if owner is not None and not owner.has_ended and abs(now - _mtime(path)) <= EXPIRY_S:
                alive.add(owner.token)
            elif owner is not None:
                dead.add(owner.token)
                path.unlink(missing_ok=True)
            elif now - _mtime(path) > EXPIRY_S:  # its process ended between creating and writing it
                path.unlink(missing_ok=True)
        return alive, dead

    def _create(self, path: Path) -> bool:
        """Create a claim, together with its content; False if it already exists."""
        written = path.with_name(f".{path.name}.{self.token}.tmp")
        while True:
            _make_folder(path.parent.parent)
            try:
                written.write_text(Owner.this_process(self.token).json_text(), "utf-8")
                try:
                    os.link(written, path)
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    # in two steps: in between, the claim has no owner
                    with path.open("x", encoding="utf-8") as file:
                        file.write(written.read_text("utf-8"))
            except FileExistsError:
                return False
            except FileNotFoundError:  # another process has just removed the empty folder
                continue
            finally:
                written.unlink(missing_ok=True)
            return True

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        owner = _read(path)
        # if it expired, another process may hold it now
        if owner is not None and owner.token == self.token:
            path.unlink(missing_ok=True)

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_S):
            for path in list(self._held):
                with suppress(OSError):  # it expired, for example while this machine was suspended
                    os.utime(path)

    def _file_system_time(self, store: Path) -> float:
        """Return the time of the file system's clock, which can differ from this machine's."""
        # the file also tells other processes who owns this token
        path = store / FOLDER / f".clock-{self.token}"
        while True:
            _make_folder(store)
            with suppress(FileNotFoundError):  # another process has just removed the empty folder
                path.write_text(Owner.this_process(self.token).json_text(), "utf-8")
                return path.stat().st_mtime


def _make_folder(store: Path) -> None:
    try:
        (store / FOLDER).mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f"{store} must be a feature store, but it was removed") from error


def _token(path: Path) -> str:
    """Return the token of a temporary file, `.NAME.TOKEN.tmp`, or a clock file, `.clock-TOKEN`."""
    return path.name.removeprefix(".clock-") if path.name.startswith(".clock-") else path.name.split(".")[-2]


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _read(path: Path) -> Owner | None:
    """Return the owner of a claim; None if the file does not exist or is incomplete."""
    try:
        document = json.loads(path.read_text("utf-8"))
        return Owner(**{key: document[key] for key in ("token", "host", "machine", "pid", "started")})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _machine() -> list[str]:
    """Return host, boot and process namespace: process ids are comparable only within these."""
    found = [platform.node()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip())
        found.append(str(Path("/proc/self/ns/pid").readlink()))
    return found


def _machine_digest() -> str:
    """Return 8 hex of `_machine`."""
    return hashlib.sha256("|".join(_machine()).encode()).hexdigest()[:8]


def _has_ended(token: str) -> bool:
    """Tell whether the process of a token is known to have ended, killed before it wrote its claim or clock."""
    pid, machine = token.partition("-")[0], token.rpartition("-")[2]
    if machine != _machine_digest() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _started(pid: int) -> int | None:
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
