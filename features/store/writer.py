"""Writing a store: rows are gathered into parts, and a part is committed by a rename."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from features.errors import InputError
from features.store.identity import StoreInfo
from features.store.part import StoredUtterance, format_of, part_paths, write_part

PART_BYTES = 256 << 20
PART_UTTERANCES = 256
PART_SECONDS = 60.0


def new_token() -> str:
    """Return a name for this process's temporaries and claims that no other has."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def choose_format(info: StoreInfo, wanted: str | None) -> str:
    """Return the format for new parts: the one wanted, else that of the parts there, else HDF5."""
    parts = part_paths(info.path)
    return wanted or (format_of(parts[-1]) if parts else "hdf5")


class StoreWriter:
    """Gathers rows of a store and closes a part at 256 MiB, 256 utterances or 60 s, and whenever it is left.

    Leaving the `with` block commits what was added, after an error or Ctrl-C too. A full disk is an InputError, and
    what had been committed stays.
    """

    def __init__(
        self,
        info: StoreInfo,
        generation: int = 0,
        kind: str = "hdf5",
        token: str | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        self.info = info
        self.generation = generation
        self.kind = kind
        self.token = token or new_token()
        self.made_with = made_with or {}
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[info.identity["store_dtype"]])
        self.written: list[str] = []
        """Ids of the committed rows."""
        self.parts: list[Path] = []
        """The parts they are in."""
        self._rows: list[StoredUtterance] = []
        self._bytes = 0
        self._opened = time.monotonic()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            return
        with suppress(InputError):  # the first error is the one to report
            self.flush()

    def add(self, rows: Sequence[StoredUtterance]) -> None:
        """Add the rows of one batch; a part is closed only between batches."""
        if not self._rows:
            self._opened = time.monotonic()
        self._rows.extend(rows)
        self._bytes += sum(row.values.nbytes for row in rows)
        old = time.monotonic() - self._opened > PART_SECONDS
        if len(self._rows) >= PART_UTTERANCES or self._bytes >= PART_BYTES or old:
            self.flush()

    def flush(self) -> None:
        """Commit the rows gathered so far as one part."""
        if not self._rows:
            return
        rows, self._rows, self._bytes = self._rows, [], 0
        try:
            part = write_part(
                self.info.path, self.info.modality, rows, self.generation, self.kind, self.token, self.made_with
            )
        except OSError as error:
            raise disk_error(self.info, error) from error
        self.written += [row.utterance_id for row in rows]
        self.parts.append(part)


def disk_error(info: StoreInfo, error: OSError) -> InputError:
    """Return the error of a write that failed."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space" in str(error)
    why = "the disk is full" if full else f"writing failed: {error}"
    return InputError(f"{info.path}: {why}; what was finished before is kept: make room and run the same command again")
