"""GRID.toml: every fault has one clear message before any work, and selecting on test cannot be expressed."""

from pathlib import Path

import pytest

from cli.main import run as mervn
from features.errors import UsageError
from mervn.config import TrainHeadOptions
from mervn.study.cells import choices
from mervn.study.grid import OF_THE_STUDY, TABLES, read_grid
from mervn.study.toml_values import Range

ROWS = '[rows]\nfusion = ["xattn", "late"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "GRID.toml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        read_grid(write(folder, text))
    return str(error.value)


def test_a_grid_holds_what_the_file_says(tmp_path: Path) -> None:
    text = 'design = "grid"\nseeds = [3, 1]\nfolds = [2]\nreference = { fusion = "late", dim = 8 }\n[base]\n'
    text += 'batch-size = 4\n[rows]\nfusion = ["xattn", "late"]\ndim = [8, 16]\n[tune]\nlearning_rate = [0.1, 0.2]\n'
    grid = read_grid(write(tmp_path, text))
    assert (grid.seeds, grid.folds, grid.base) == ((3, 1), (2,), {"batch_size": 4})
    assert grid.reference == {"fusion": "late", "dim": 8} and grid.name == "GRID"
    assert grid.combinations() == [
        {"fusion": "xattn", "dim": 8}, {"fusion": "xattn", "dim": 16},
        {"fusion": "late", "dim": 8}, {"fusion": "late", "dim": 16},
    ]  # fmt: skip
    assert grid.tuned() == [{"learning_rate": 0.1}, {"learning_rate": 0.2}]


def test_one_at_a_time_varies_each_axis_around_the_reference(tmp_path: Path) -> None:
    text = 'design = "one-at-a-time"\nreference = { fusion = "late", dim = 16 }\n'
    grid = read_grid(write(tmp_path, text + '[rows]\nfusion = ["xattn", "late", "text"]\ndim = [8, 16]\n'))
    assert grid.combinations() == [
        {"fusion": "late", "dim": 16}, {"fusion": "xattn", "dim": 16}, {"fusion": "text", "dim": 16},
        {"fusion": "late", "dim": 8},
    ]  # fmt: skip


def test_the_defaults_are_three_seeds_no_folds_and_the_first_row_as_reference(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, ROWS))
    assert (grid.seeds, grid.folds, grid.design) == ((0, 1, 2), None, "grid")
    assert grid.reference == {"fusion": "xattn"} and grid.tuned() == [{}]
    assert grid.baselines and not read_grid(write(tmp_path, f"baselines = false\n{ROWS}")).baselines
    assert read_grid(write(tmp_path, f'folds = "all"\n{ROWS}')).folds == ()


@pytest.mark.parametrize("key", ["split", "splits", "test", "seed", "num-seeds", "fold", "output", "data", "force"])
@pytest.mark.parametrize("table", TABLES)
def test_a_grid_cannot_set_the_split_the_seed_or_the_folder_of_its_cells(key: str, table: str, tmp_path: Path) -> None:
    text = ROWS if table == "rows" else f"{ROWS}[{table}]\n"
    value = '["test"]' if table != "base" else '"test"'
    assert f"[{table}] must not set {key}: " in faults(tmp_path, f"{text}{key} = {value}\n")


def test_selection_on_test_cannot_be_expressed(tmp_path: Path) -> None:
    for key in ("split", "select-on", "metric", "selection", "tune-split"):
        assert f"no key is called '{key}'" in faults(tmp_path, f'{key} = "test"\n{ROWS}')
        assert f"{key}" in faults(tmp_path, f'{ROWS}[tune]\n{key} = ["test"]\n')
    for name in TrainHeadOptions.model_fields:  # nor is there an option of a cell that names test
        if name not in OF_THE_STUDY:
            assert "test" not in choices(name), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('desing = "grid"\n' + ROWS, "no key is called 'desing'; did you mean design?"),
        ("dim = 8\n" + ROWS, r"no key is called 'dim'; put it under [base] or [rows] (dim = [...])"),
        ('[rows]\nfusoin = ["late"]\n', "[rows]: train-head has no option 'fusoin'; did you mean fusion?"),
        (
            ROWS + "[base]\nlearning-rat = 1\n",
            "[base]: train-head has no option 'learning-rat'; did you mean learning-",
        ),
        ("[rows]\n", "[rows] must have at least one axis"),
        ("seeds = 2\n", "[rows] must have at least one axis"),
        ("[rows]\nfusion = []\n", "[rows] fusion must have at least one value, found an empty list"),
        ('[rows]\nfusion = "late"\n', "[rows] fusion must be a list of values, found 'late'"),
        ("[rows]\nmlp = [8, 4]\n", "[rows] mlp must be a list of lists, found [8, 4]"),
        ("[rows]\ndim = [8, 16, 8]\n", "[rows] dim has the value 8 twice"),
        (ROWS + "[tune]\ndim = [8, 8]\n", "[tune] dim has the value 8 twice"),
        (ROWS + '[base]\nfusion = "late"\n', "fusion must be in one table, found it in [base] and [rows]"),
        (ROWS + '[tune]\nfusion = ["late"]\n', "fusion must be in one table, found it in [rows] and [tune]"),
        (ROWS + "[base]\nbatch-size = 1\nbatch_size = 2\n", "[base]: batch-size is given twice"),
        ('design = "random"\n' + ROWS, "design must be grid or one-at-a-time, found 'random'"),
        ("seeds = 0\n" + ROWS, "seeds must be a number of 1 or more, or a list of different seeds, found 0"),
        ("seeds = 9999999999\n" + ROWS, "seeds must be"),
        (
            "seeds = 30000\n[rows]\ndim = [1, 2]\n[tune]\npatience = [1, 2]\n",
            "the grid must have at most 100000 cells per fold, found 120000",
        ),
        ("seeds = []\n" + ROWS, "seeds must be"),
        ("seeds = [1, 1]\n" + ROWS, "seeds must be"),
        ("seeds = [-1]\n" + ROWS, "seeds must be"),
        ("seeds = true\n" + ROWS, "seeds must be"),
        ('folds = "some"\n' + ROWS, "folds must be 'all' or a list of different numbers from 1 on, found 'some'"),
        ("folds = [0]\n" + ROWS, "folds must be"),
        ('baselines = "no"\n' + ROWS, "baselines must be true or false, found 'no'"),
        ("base = 3\n" + ROWS, "base must be a table [base], found 3"),
        ("[rows]\nlearning-rate = [0.1, inf]\n", "[rows] learning-rate must have finite numbers, found [0.1, inf]"),
        (ROWS + "[base]\ndropout = nan\n", "[base] dropout must have finite numbers, found nan"),
        ('reference = { fusion = "lat" }\n' + ROWS, "fusion must be one of 'xattn', 'late', found 'lat'; did you mean"),
        ("reference = { dim = 8 }\n" + ROWS, "reference: dim is no axis of [rows]; the axes are fusion"),
        ("reference = {}\n" + ROWS, "reference must give a value for each axis of [rows], fusion is missing"),
        ('reference = "late"\n' + ROWS, "reference must give a value for each axis of [rows], found 'late'"),
    ],
)
def test_a_fault_is_named(text: str, message: str, tmp_path: Path) -> None:
    found = faults(tmp_path, text)
    assert message in found and found.startswith(f"{tmp_path / 'GRID.toml'}: "), found


RANGE = "[tune]\ndim = [8, 16]\nlearning-rate = { low = 1e-5, high = 1e-3, log = true }\n"


def test_with_trials_the_checked_values_are_each_value_once(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path, f"seeds = 2\n{ROWS}{RANGE}"), trials=7)
    assert grid.ranges == {"learning_rate": Range(1e-5, 1e-3, log=True)} and grid.tune == {"dim": [8, 16]}
    assert grid.tuned() == [
        {"dim": 8, "learning_rate": 1e-5}, {"dim": 16, "learning_rate": 1e-5}, {"dim": 8, "learning_rate": 1e-3},
    ]  # fmt: skip
    assert grid.num_cells == 2 * 7 * 2


def test_a_range_and_trials_need_each_other(tmp_path: Path) -> None:
    assert "[tune] learning-rate is a range: pass --trials N, or give a list" in faults(tmp_path, ROWS + RANGE)
    with pytest.raises(UsageError, match=r"--trials searches the axes under \[tune\], but the grid has none"):
        read_grid(write(tmp_path, ROWS), trials=2)
    with pytest.raises(UsageError, match=r"\[rows\] dim must be a list of values, found \{'low'"):
        read_grid(write(tmp_path, "[rows]\ndim = { low = 1, high = 2 }\n[tune]\nepochs = [1]\n"), trials=2)
    with pytest.raises(UsageError, match=r"\[tune\] dropout must have low < high, found low=1 high=0"):
        read_grid(write(tmp_path, ROWS + "[tune]\ndropout = { low = 1, high = 0 }\n"), trials=2)
    with pytest.raises(UsageError, match="dropout must be in one table, found it in .base. and .tune."):
        read_grid(write(tmp_path, ROWS + "[base]\ndropout = 0\n[tune]\ndropout = { low = 0, high = 1 }\n"), trials=2)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "seeds = 0\nfolds = 1\n[rows]\nfusoin = [1]\n").splitlines()) == 3


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    assert "must be a TOML file: " in faults(tmp_path, "[rows\n")
    with pytest.raises(UsageError, match="does not exist; see mervn ablate --example"):
        read_grid(tmp_path / "none.toml")


def test_code_in_a_grid_needs_the_flag(tmp_path: Path) -> None:
    path = write(tmp_path, '[rows]\nfusion = ["late", "my.py:Mine"]\n')
    with pytest.raises(UsageError, match=r"names the code my.py:Mine; review it, then pass --trust-code"):
        read_grid(path)
    assert read_grid(path, trust_code=True).rows["fusion"] == ["late", "my.py:Mine"]


def test_the_example_is_a_valid_grid_with_four_ablations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mervn(["ablate", "--example"]) == 0
    text = capsys.readouterr().out
    grid = read_grid(write(tmp_path, text))
    assert set(grid.rows) == {"audio_encoder", "text_encoder", "fusion", "pooling", "sampling"}
    assert len(grid.combinations()) == 1 + sum(len(values) - 1 for values in grid.rows.values())
    assert text.count("\n# ") >= 8


def test_without_a_grid_the_command_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert mervn(["ablate"]) == 2
    assert "mervn ablate --example" in capsys.readouterr().err


@pytest.mark.parametrize("encoder", ["my.py:Mine", "fourier2vec+my.py:Mine=model@2"])
def test_an_encoder_in_a_file_of_the_user_needs_trust_too(encoder: str, tmp_path: Path) -> None:
    text = f'[base]\nfusion = "audio"\n[rows]\naudio-encoder = ["{encoder}", "fourier2vec"]\n'
    assert "names the code" in faults(tmp_path, text)
    grid = read_grid(tmp_path / "GRID.toml", trust_code=True)
    assert grid.rows["audio_encoder"] == [encoder, "fourier2vec"]
