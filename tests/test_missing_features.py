"""Features that a study needs: those that were imported are read, not extracted."""

from pathlib import Path

import pytest
from test_feature_files import save_npy
from test_import_features import arrays, take
from tiny import make_data

from features.errors import InputError, UsageError
from features.progress import SILENT
from mervn.config import AblateOptions
from mervn.study.search import RowSearch
from mervn.study.study_plan import Plan, find_complete, make_plan

GRID = """seeds = 2
[base]
dim = 8
mlp = [4]
fusion = "audio"
[rows]
pooling = ["mean", "attn"]
[tune]
audio-encoder = ["mine", "other"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder: `data` with two imported stores."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", {"train": 8, "valid": 4, "test": 2})
    save_npy(tmp_path / "npy", arrays(Path("data")))
    take()
    take(hz=49, name="other")
    return tmp_path


def plan_of(folder: Path, second: str = "other") -> Plan:
    path = folder / "GRID.toml"
    path.write_text(GRID.replace('"other"', f'"{second}"'))
    return make_plan(path, AblateOptions(device="cpu", trials=2), Path("data"))


def test_a_study_its_baselines_and_its_trials_read_imported_features(folder: Path) -> None:
    plan = plan_of(folder)
    assert [row.is_baseline for row in plan.rows] == [False, False, True] and not plan.missing.selectors
    linear = plan.rows[2].candidates
    assert [one.options.audio_encoder for one in linear] == ["mine", "other"]
    assert len({one.identity for one in linear}) == 2
    assert len(find_complete(plan.cells, Path("data")).sizes) == len(plan.cells)  # all of them can be trained
    row = RowSearch(plan, plan.rows[0], pytest.importorskip("optuna"), SILENT)
    assert row.ask(5) == 2 and [one.options.audio_encoder for one in row.candidates] == ["mine", "other"]


def test_features_that_nobody_imported_are_refused_before_training(folder: Path) -> None:
    for name, error, message in (
        ("othr", UsageError, "must name one of .*other.*found 'othr'; did you mean other"),
        ("other@3", InputError, "with layer last, wanted 3"),
        ("mine@last", UsageError, "must name the layer of every mine .*write mine@LAYER"),
    ):
        with pytest.raises(error, match=message):
            plan_of(folder, name)
