"""UnitWriter: errors of the thread that writes reach the user, and finished batches are kept."""

from pathlib import Path
from typing import Any

import pytest
from test_extract import run
from tiny import make_data
from tiny_extraction import small_encoders

from features.errors import InputError
from features.store import hdf5
from features.store.part_files import part_paths


@pytest.mark.parametrize(("workers", "where"), [(0, "within a unit"), (2, "within a unit"), (2, "at its end")])
def test_a_full_disk_is_the_same_error_with_and_without_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, where: str
) -> None:
    data = make_data(tmp_path / "data", {"train": 10, "valid": 2, "test": 2})
    selector = small_encoders(tmp_path / "models")[0]
    write, calls = hdf5.write, [0]

    def full_at_the_third(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "write", full_at_the_third)
        if where == "within a unit":
            patch.setattr("features.store.writer.PART_UTTERANCES", 1)
            patch.setattr("features.extraction.units.UNITS", 1)
        with pytest.raises(InputError, match="the disk is full; finished work is kept"):
            run(data, selector, workers=workers)
    store = next((data / "stores" / "audio").iterdir())
    assert len(part_paths(store)) >= 2 and not list(store.glob(".part*"))
    last = run(data, selector, workers=workers)
    assert last.kept > 0 and last.encoded + last.kept == 14
