"""An encoder with and without a layer in one grid: its default layer is named, and it runs once."""

from pathlib import Path

import pytest
from tiny import make_data, make_whisper
from tiny_extraction import decoded

from features.encoders.selector import parse_selector
from features.errors import UsageError
from features.progress import SILENT
from features.store.index import list_stores
from mervn.config import AblateOptions
from mervn.study.grid import read_grid
from mervn.study.missing_features import extract_missing
from mervn.study.open_layers import default_layer, name_layers
from mervn.study.study_plan import Plan, find_complete, make_plan

GRID = """seeds = 1
baselines = false
[base]
dim = 8
mlp = [4]
fusion = "audio"
[rows]
audio-encoder = ["whisper=MODEL", "whisper=MODEL@1"]
"""
STORES = Path("data/stores")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder: `data`, and a Whisper of three layers as `model`."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", {"train": 6, "valid": 3, "test": 2})
    make_whisper(tmp_path / "model")
    return tmp_path


def plan_of(folder: Path, grid: str = GRID) -> Plan:
    (folder / "GRID.toml").write_text(grid.replace("MODEL", str(folder / "model")))
    return make_plan(folder / "GRID.toml", AblateOptions(device="cpu"), Path("data"))


def test_two_layers_of_one_encoder_take_one_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(folder)
    model = folder / "model"
    assert [row.axes["audio_encoder"] for row in plan.rows] == [f"whisper={model}@2", f"whisper={model}@1"]
    assert list(map(str, plan.missing.selectors)) == [f"whisper={model}@2,1"]
    counts = decoded(monkeypatch)
    extract_missing(plan.missing, SILENT, plan_only=False)
    assert len(counts) == 9 and set(counts.values()) == {1}  # train and valid; two passes would decode twice
    assert {info.identity.layer for info in list_stores(STORES, "audio")} == {1, 2}
    again = plan_of(folder)
    assert not again.missing.selectors and again.rows[0].axes == plan.rows[0].axes
    assert len(find_complete(again.cells, Path("data")).sizes) == 2  # both can be trained


def test_the_default_layer_is_that_of_an_extraction(folder: Path) -> None:
    from features.encoders.base import load_encoder

    for text in (f"whisper={folder / 'model'}",):
        selector = parse_selector(text, "audio")
        assert default_layer(selector, STORES) == load_encoder(selector).layers[0] == 2
    assert default_layer(parse_selector("phobert", "text"), STORES) == "last"
    assert default_layer(parse_selector("whisper=./none", "audio"), STORES) is None


def test_a_grid_with_one_form_stays_as_it_is(folder: Path) -> None:
    for values in ('["whisper=MODEL"]', '["whisper=MODEL@1", "whisper=MODEL@3"]', '["whisper@1", "whisper=MODEL"]'):
        start = GRID.partition("audio-encoder")[0]
        (folder / "GRID.toml").write_text(f"{start}audio-encoder = {values}\n".replace("MODEL", str(folder / "model")))
        grid = read_grid(folder / "GRID.toml")
        assert name_layers(grid, STORES) == grid


def test_the_reference_and_two_streams_are_renamed_too(folder: Path) -> None:
    grid = GRID.replace("[base]", 'reference = { audio-encoder = "whisper=MODEL+vggish" }\n[base]').replace(
        '"whisper=MODEL",', '"whisper=MODEL+vggish",'
    )
    (folder / "GRID.toml").write_text(grid.replace("MODEL", str(folder / "model")))
    named = name_layers(read_grid(folder / "GRID.toml"), STORES)
    expected = f"whisper={folder / 'model'}@2+vggish"
    assert named.reference["audio_encoder"] == named.rows["audio_encoder"][0] == expected


def test_the_default_layer_beside_itself_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="two rows are the same"):
        plan_of(folder, GRID.replace("MODEL@1", "MODEL@2"))


def test_an_unknown_default_layer_is_refused_with_advice(folder: Path) -> None:
    (folder / "model" / "config.json").write_text("{")
    with pytest.raises(UsageError, match="must name the layer of every whisper=.*write whisper="):
        plan_of(folder)
