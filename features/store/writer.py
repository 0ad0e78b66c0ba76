"""Writing a store: rows are gathered into parts, and a part is committed by a rename."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from features.errors import InputError
from features.manifest import Utterance
from features.store.hdf5 import Row, write_part
from features.store.identity import StoreInfo, write_atomically

PART_BYTES = 256 << 20
PART_ROWS = 256
PART_SECONDS = 60.0
REJECTED_FILE = "rejected.jsonl"
Rejection = tuple[Utterance, str, str]
"""An utterance, the reason in a word, and the detail."""


class StoreWriter:
    """Gathers rows of a store and closes a part at 256 MiB, 256 utterances or 60 s, and whenever it is left.

    Leaving the `with` block commits what was added, after an error or Ctrl-C too. A full disk is an InputError, and
    what had been committed stays. `scope` holds the ids this extraction is about.
    """

    def __init__(self, info: StoreInfo, generation: int, scope: set[str]) -> None:
        self.info = info
        self.generation = generation
        self.scope = scope
        self.dtype = np.dtype({"fp16": np.float16, "fp32": np.float32}[info.identity["store_dtype"]])
        self.written = 0
        self.rejected: dict[str, Rejection] = {}
        self._rows: list[Row] = []
        self._bytes = 0
        self._opened = time.monotonic()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            self._write_rejected()
            return
        with suppress(InputError):  # the first error is the one to report
            self.flush()
            self._write_rejected()

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of one batch; a part is closed only between batches."""
        if not self._rows:
            self._opened = time.monotonic()
        self._rows.extend(rows)
        self._bytes += sum(row.values.nbytes for row in rows)
        old = time.monotonic() - self._opened > PART_SECONDS
        if len(self._rows) >= PART_ROWS or self._bytes >= PART_BYTES or old:
            self.flush()

    def reject(self, rejection: Rejection) -> None:
        """Note an utterance that cannot be encoded."""
        self.rejected[rejection[0].utterance_id] = rejection

    def flush(self) -> None:
        """Commit the rows gathered so far as one part."""
        if not self._rows:
            return
        try:
            write_part(self.info.path, self.info.modality, self._rows, self.generation)
        except OSError as error:
            raise _disk_error(self.info, error) from error
        self.written += len(self._rows)
        self._rows, self._bytes = [], 0

    def _write_rejected(self) -> None:
        """Rewrite rejected.jsonl: what was rejected now, and what stood there of utterances outside the scope."""
        path = self.info.path / REJECTED_FILE
        if not self.rejected and not path.exists():
            return
        lines = [json.dumps(entry, ensure_ascii=False) for entry in self._kept_rejections()]
        lines += [json.dumps(rejection_entry(rejection), ensure_ascii=False) for rejection in self.rejected.values()]
        try:
            write_atomically(path, "".join(line + "\n" for line in lines))
        except OSError as error:
            raise _disk_error(self.info, error) from error

    def _kept_rejections(self) -> list[dict[str, object]]:
        entries = read_rejected(self.info.path).values()
        return [entry for entry in entries if entry["utterance_id"] not in self.scope]


def rejection_entry(rejection: Rejection) -> dict[str, object]:
    """Return what rejected.jsonl says of one rejection."""
    utterance, reason, detail = rejection
    return {
        "utterance_id": utterance.utterance_id,
        "file": utterance.file,
        "line": utterance.line,
        "reason": reason,
        "detail": detail,
    }


def read_rejected(store: Path) -> dict[str, dict[str, object]]:
    """Return the entries of a store's rejected.jsonl by utterance id."""
    path = store / REJECTED_FILE
    if not path.exists():
        return {}
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    return {entry["utterance_id"]: entry for entry in entries}


def _disk_error(info: StoreInfo, error: OSError) -> InputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space" in str(error)
    why = "the disk is full" if full else f"writing failed: {error}"
    return InputError(f"{info.path}: {why}; what was finished before is kept: make room and run the same command again")
