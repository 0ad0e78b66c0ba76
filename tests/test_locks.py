"""Lock of a store: claims replace it if the file system cannot lock files."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest
from tiny_store import make_store

from features.errors import InputError
from features.store.claims import FOLDER
from features.store.locks import store_lock
from mervn.result_folder import locked


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_claims_replace_a_missing_flock(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_store(tmp_path)

    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr("features.store.locks.WAIT_S", 0.01)
    inside, overlaps = threading.Lock(), []

    def work() -> None:
        for _ in range(3):
            with store_lock(info.path):
                overlaps.append(not inside.acquire(blocking=False))
                inside.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 9 and not (info.path / FOLDER).exists()
    with (
        pytest.raises(InputError, match="must be on a file system that can lock files, found: .*-o flock"),
        locked(tmp_path / "run", "config.json", "run"),
    ):
        pass
