"""Budget of a store: the first extraction decides it, and others use it."""

from pathlib import Path

import pytest
from test_extract import content, run
from tiny import make_data

from features.errors import InputError, UsageError
from features.extraction.unit import Unit, UnitResult
from features.extraction.worker import Worker
from features.store.batching_budget import BUDGET_FILE, read_budget
from features.store.claims import Claims


def test_the_first_extraction_decides_the_budget(tmp_path: Path) -> None:
    """A process on a GPU beside one on a CPU claimed other units and encoded the same utterances."""
    data = make_data(tmp_path / "data")
    first = run(data, batch_seconds=1.5, shard=(1, 2))
    assert read_budget(Path(first.path)) == 1.5
    units: list[str] = []
    encode = Worker.encode

    def noting(self: Worker, unit: Unit, upcoming: Unit | None) -> UnitResult:
        units.append(unit.name)
        padded = [max(0.3 + 0.05 * (u.extra["take"] % 7) for u in batch) * len(batch) for batch in unit.batches]
        assert max(padded) <= 1.5 + 1e-9  # not the 8 s of a CPU
        return encode(self, unit, upcoming)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "encode", noting)
        second = run(data, batch_seconds=None)
    assert units and first.encoded + second.encoded == 42
    assert content(first.path) == content(run(data, batch_seconds=1.5, features_dir=tmp_path / "alone").path)


def test_another_budget_is_taken_over_unless_somebody_extracts(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    path = Path(run(data, batch_seconds=1.5).path)
    with Claims([path]) as other:
        assert other.take("unit")
        with pytest.raises(UsageError, match=r"--batch-seconds must be 1\.5, as in the extraction of .*, found 3"):
            run(data, batch_seconds=3.0)
        assert run(data, batch_seconds=1.5).kept == 42
    run(data, batch_seconds=3.0)
    assert read_budget(path) == 3.0
    for broken in ("{", "[]", '{"budget": "8"}', '{"budget": NaN}', '{"budget": -1}', "[" * 10_000):
        (path / BUDGET_FILE).write_text(broken)
        with pytest.raises(InputError, match=r"batching\.json.*remove"):
            run(data, batch_seconds=None)
