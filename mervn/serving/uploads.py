"""Uploads of `mervn serve`: a private folder, whose files are deleted as soon as they are answered."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
"""Environment variable with the folder in which gradio stores uploads."""
MAX_FILES = 100
"""Number of uploads that are stored at once."""
KEPT_S = 600.0
"""Seconds after which a file is deleted that nobody asked about, or whose upload was not completed."""
SWEEP_S = 60.0
"""Seconds between two searches for such files."""


class Uploads:
    """The uploaded files of one server.

    Equal files of two visitors have one path, so a file is deleted when its last upload is answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._pending: Counter[str] = Counter()

    def add(self, path: str) -> None:
        """Count an upload."""
        self._pending[path] += 1

    @property
    def is_full(self) -> bool:
        """Tell whether no upload can be added until others are answered or old ones deleted."""
        return sum(path.is_file() for path in self.folder.rglob("*")) >= MAX_FILES

    def holds(self, path: str) -> bool:
        """Tell whether a path leads to an upload, without symbolic links to elsewhere."""
        return self.folder in Path(path).resolve().parents

    def delete(self, path: str | None) -> None:
        """Delete an upload that is answered, and the folder that was made for it."""
        if path is None or not self.holds(path):
            return
        self._pending[path] -= 1
        if self._pending[path] > 0:
            return
        self._remove(Path(path))

    def delete_old(self) -> None:
        """Delete the files that are older than KEPT_S."""
        for path in list(self.folder.rglob("*")):
            with suppress(FileNotFoundError):  # answered meanwhile
                if path.is_file() and time.time() - path.stat().st_mtime > KEPT_S:
                    self._remove(path)

    def _remove(self, path: Path) -> None:
        """Delete a file, and its folder if nothing else is in it."""
        self._pending.pop(str(path), None)
        path.unlink(missing_ok=True)
        if path.parent != self.folder:
            with suppress(OSError):  # a file of another name with equal content
                path.parent.rmdir()


@contextmanager
def private_uploads() -> Iterator[Uploads]:
    """Make the folder of uploads, which only this user can read, and delete it at the end."""
    before = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="mervn-serve-", ignore_cleanup_errors=True) as folder:
        uploads = Uploads(Path(folder))
        os.environ[FOLDER_VARIABLE] = str(uploads.folder)
        ended = threading.Event()
        sweeper = threading.Thread(target=_sweep, args=(uploads, ended), daemon=True)
        sweeper.start()
        try:
            yield uploads
        finally:
            ended.set()
            sweeper.join()
            if before is None:
                del os.environ[FOLDER_VARIABLE]
            else:
                os.environ[FOLDER_VARIABLE] = before


def _sweep(uploads: Uploads, ended: threading.Event) -> None:
    """Delete old files again and again until the server has ended."""
    while not ended.wait(SWEEP_S):
        uploads.delete_old()
