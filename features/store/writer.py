"""StoreWriter: collects the features of utterances into parts and commits each part by a rename."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from features.errors import InputError
from features.store.identity import StoreInfo
from features.store.part import DTYPES, StoredUtterance
from features.store.part_files import format_of, part_paths
from features.store.part_writer import write_part

PART_BYTES = 256 << 20
PART_UTTERANCES = 256
PART_SECONDS = 60.0
"""Limits of a part: bytes of values, utterances, and seconds since the first one was added."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of a folder or file system that this process may not write."""


def new_token() -> str:
    """Return a unique name, PID-RANDOM, for the temporary files and claims of this process."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def choose_format(info: StoreInfo, wanted: str | None) -> str:
    """Return the format of new parts: `wanted`, else that of the existing parts, else HDF5."""
    parts = part_paths(info.path)
    return wanted or (format_of(parts[-1]) if parts else "hdf5")


class StoreWriter:
    """Collects utterances and commits parts: at 256 MiB, `max_utterances` (256), 60 s, and at the end.

    Leaving the `with` block commits the added utterances, even after an error or Ctrl-C. Raises
    InputError if the disk is full; parts that were committed before stay.
    """

    def __init__(
        self,
        info: StoreInfo,
        generation: int = 0,
        kind: str = "hdf5",
        token: str | None = None,
        made_with: Mapping[str, str] | None = None,
        max_utterances: int | None = None,
    ) -> None:
        self.info = info
        self.generation = generation
        self.kind = kind
        self.token = token or new_token()
        self.made_with = made_with or {}
        self.max_utterances = max_utterances or PART_UTTERANCES
        self.dtype = DTYPES[info.identity.store_dtype]
        self.written: list[str] = []
        """Ids of the committed utterances."""
        self.parts: list[Path] = []
        """The committed parts."""
        self._pending: list[StoredUtterance] = []
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

    def add(self, utterances: Sequence[StoredUtterance]) -> None:
        """Add the utterances of one batch; a part is committed only between batches."""
        if not self._pending:
            self._opened = time.monotonic()
        self._pending.extend(utterances)
        self._bytes += sum(utterance.values.nbytes for utterance in utterances)
        old = time.monotonic() - self._opened > PART_SECONDS
        if len(self._pending) >= self.max_utterances or self._bytes >= PART_BYTES or old:
            self.flush()

    def flush(self) -> None:
        """Commit the collected utterances as one part; do nothing if there are none."""
        if not self._pending:
            return
        utterances, self._pending, self._bytes = self._pending, [], 0
        try:
            part = write_part(
                self.info.path, self.info.modality, utterances, self.generation, self.kind, self.token, self.made_with
            )
        except OSError as error:
            raise disk_error(self.info, error) from error
        self.written += [utterance.utterance_id for utterance in utterances]
        self.parts.append(part)


def disk_error(info: StoreInfo, error: OSError) -> InputError:
    """Return the InputError of a failed write, which tells a full disk from other reasons."""
    hint = "Free some space"
    if error.errno == errno.EFBIG or "File too large" in str(error):
        why, hint = "a file would be larger than this process may write", "Raise the limit (ulimit -f)"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error):
        why = "the disk is full"
    elif error.errno in READ_ONLY:
        why, hint = f"it must be writable, found: {error}", "Make it writable"
    else:
        why = f"writing failed: {error}"
    return InputError(f"{info.path}: {why}; finished work is kept. {hint} and run the same command again")
