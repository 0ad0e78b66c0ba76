"""FileState: it changes with size, time and content, and a file that cannot be read has none."""

import os
from pathlib import Path

from features.audio.file_state import FINGERPRINT_BYTES, UNKNOWN, file_state, fingerprint


def test_the_fingerprint_covers_both_ends(tmp_path: Path) -> None:
    path, size = tmp_path / "a", 3 * FINGERPRINT_BYTES
    content = bytearray(size)
    path.write_bytes(content)
    found = {fingerprint(path)}
    for place in (0, size - 1):
        changed = bytearray(content)
        changed[place] = 1
        path.write_bytes(changed)
        found.add(fingerprint(path))
    path.write_bytes(content + b"\0")
    found.add(fingerprint(path))
    assert len(found) == 4
    changed = bytearray(content)
    changed[size // 2] = 1  # the control: what it does not cover
    path.write_bytes(changed)
    assert fingerprint(path) in found


def test_a_named_pipe_is_not_read_and_a_missing_file_is_unknown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert file_state(tmp_path / "pipe").fingerprint is None  # and does not wait
    assert file_state(tmp_path / "missing") == UNKNOWN
    (tmp_path / "a").write_bytes(b"12")
    os.utime(tmp_path / "a", ns=(5, 7))
    assert file_state(tmp_path / "a")[:2] == (2, 7)
