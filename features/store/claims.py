"""Claims: files that record which process works on which unit of a store.

Only one process can create the file of a claim. Its holder updates the file's mtime. A claim is
dead if it was not updated for `EXPIRY_S` (by the clock of the file system) or if its process on
this machine has ended. A wrong decision only costs duplicate work, never correctness: parts are
immutable, and parts of equal utterances have equal names.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from features.errors import InputError
from features.store.claim_owner import Owner, machine_digest, process_has_ended
from features.store.part_files import remove
from features.store.writer import READ_ONLY, new_token

FOLDER = "claims"
REMOVAL = "removal"
"""Claim of a process that removes the store: no unit can be claimed meanwhile."""
MAINTENANCE = "maintenance"
"""Claim of a process that compacts or converts the store."""
LOCK = "lock"
"""Claim that replaces a file lock if the file system has none."""
REFRESH_S = 15.0
"""Seconds between two updates of the mtime of held claims."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Error numbers of a file system without hard links."""
EXPIRY_S = 180.0
"""Seconds without an update after which a claim is dead; a network file system caches an old mtime
for less."""


class Claims:
    """The claims of one process in one or more stores.

    A unit is claimed in all of these stores or in none.
    """

    def __init__(self, stores: Sequence[Path]) -> None:
        # PID and machine, so that the name of an empty file tells whose it is
        self.token = f"{new_token()}-{machine_digest()}"
        self.stores = list(stores)
        self._owner = Owner.this_process(self.token).json_text()
        """Content of the files of this process."""
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
        """Claim a unit in all stores.

        Returns False if another process holds it. Raises InputError if a store is being removed.
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
                raise InputError(f"{self.describe_holders([REMOVAL])} is removing {store}")
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
                for entry in entries:
                    if entry.name.endswith(".json"):
                        found.add(entry.name.removesuffix(".json"))
        own = {path.stem for path in self._held}
        return found - own - {REMOVAL, MAINTENANCE, LOCK}

    def holders(self, units: Iterable[str]) -> list[str]:
        """Return the processes that hold these units, as host:pid."""
        found = set()
        for store in self.stores:
            for unit in units:
                owner = Owner.read(store / FOLDER / f"{unit}.json")
                if owner is not None:
                    found.add(f"{owner.host}:{owner.pid}")
        return sorted(found)

    def describe_holders(self, units: Iterable[str]) -> str:
        """Return the processes that hold these units, for messages; a claim may name none."""
        return ", ".join(self.holders(units)) or "another process"

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

        Returns the tokens of processes that run and of those that have ended.
        """
        alive, dead = {self.token}, set[str]()
        for path in (store / FOLDER).glob(".clock-*"):
            owner, token = Owner.read(path), _token(path)
            ended = owner.has_ended if owner is not None else process_has_ended(token)
            if ended:
                dead.add(token)
        for path in (store / FOLDER).glob("*.json"):
            owner = Owner.read(path)
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
        """Create a claim together with its content; return False if it already exists."""
        written = path.with_name(f".{path.name}.{self.token}.tmp")
        while True:
            try:
                written.write_text(self._owner, "utf-8")
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
            except FileNotFoundError:  # the first claim, or another process has just removed the empty folder
                _make_folder(path.parent.parent)
                continue
            finally:
                written.unlink(missing_ok=True)
            return True

    def _drop(self, path: Path) -> None:
        """Remove a claim if it is still held by this process."""
        self._held.discard(path)
        owner = Owner.read(path)
        # if it expired, another process may hold it now
        if owner is not None and owner.token == self.token:
            path.unlink(missing_ok=True)

    def _refresh(self) -> None:
        """Update the mtime of the held claims until the block ends (in a thread)."""
        while not self._stop.wait(REFRESH_S):
            for path in list(self._held):
                with suppress(OSError):  # it expired, for example while this machine was suspended
                    os.utime(path)

    def _file_system_time(self, store: Path) -> float:
        """Return the time of the file system's clock, which can differ from this machine's."""
        # the file also tells other processes who owns this token
        path = store / FOLDER / f".clock-{self.token}"
        while True:
            try:
                _make_folder(store)
                path.write_text(self._owner, "utf-8")
                return path.stat().st_mtime
            except FileNotFoundError:  # another process has just removed the empty folder
                continue
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                raise InputError(f"{store} must be writable, found: {error}") from error


def _make_folder(store: Path) -> None:
    """Create the folder of claims; raises InputError if the store was removed."""
    try:
        (store / FOLDER).mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f"{store} must be a feature store, but it was removed") from error


def _token(path: Path) -> str:
    """Return the token of a temporary file, `.NAME.TOKEN.tmp`, or a clock file, `.clock-TOKEN`."""
    name = path.name
    return name.removeprefix(".clock-") if name.startswith(".clock-") else name.split(".")[-2]


def _mtime(path: Path) -> float:
    """Return the mtime of a file; the current time if the file no longer exists."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
