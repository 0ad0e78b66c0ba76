"""Rows, candidates and cells of a study: equal configurations are found, and cells keep their folders."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny import write_manifest

from features.atomic_files import write_json
from features.errors import UsageError
from mervn.config import TrainHeadOptions
from mervn.study.cells import Cell, Row, fold_numbers, make_cells, make_rows
from mervn.study.grid import Grid, read_grid
from mervn.training.setup import resolve_head_options

BASE = '[base]\ndim = 8\nheads = 2\nmlp = [8]\naudio-encoder = "fourier2vec"\ntext-encoder = "hashed_ngrams"\n'
EXAMPLE = Path(__file__).parent.parent / "mervn" / "study" / "example.toml"
PLACE: dict[str, Any] = {"device": "cpu"}


def read(folder: Path, text: str) -> Grid:
    path = folder / "GRID.toml"
    path.write_text(text)
    return read_grid(path, trust_code=True)


def rows_of(folder: Path, text: str) -> list[Row]:
    return make_rows(read(folder, text), PLACE)


def cells_of(folder: Path, text: str) -> list[Cell]:
    grid = read(folder, text)
    return make_cells(grid, make_rows(grid, PLACE), [None], folder / "study")


def fault(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        rows_of(folder, text)
    return str(error.value)


def test_every_combination_is_a_row_and_an_option_may_be_unread_in_some(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, BASE + '[rows]\nfusion = ["xattn", "late", "text"]\npooling = ["mean", "attn"]\n')
    assert [str(row) for row in rows[:2]] == ["fusion=xattn pooling=mean", "fusion=xattn pooling=attn"]
    assert len(rows) == 6 and [row.is_reference for row in rows] == [True] + [False] * 5
    assert "heads" in rows[2].candidates[0].resolved.unread  # late has no attention


def test_tuned_values_that_a_row_does_not_read_are_one_candidate(tmp_path: Path) -> None:
    text = BASE.replace("heads = 2\n", "") + '[rows]\nfusion = ["xattn", "late"]\n[tune]\nheads = [2, 4]\n'
    rows = rows_of(tmp_path, text)
    assert [len(row.candidates) for row in rows] == [2, 1]


def test_an_option_that_a_cell_does_not_read_is_left_out_of_it(tmp_path: Path) -> None:
    text = '[base]\ndim = 8\nmlp = [8]\nepochs = 3\npooling = "cls"\n[rows]\nfusion = ["late", "linear", "text"]\n'
    cells = cells_of(tmp_path, f"seeds = [3, 1]\n{text}[tune]\nlearning-rate = [0.1, 0.2]\n")
    linear = [cell for cell in cells if cell.row == 1]
    assert len(cells) == 9 and [cell.seed for cell in linear] == [3]  # one seed and no tuned value
    read = {cell.row: resolve_head_options(cell.options) for cell in cells}  # as the study and its processes do
    default = TrainHeadOptions.model_fields["epochs"].default
    assert [(read[row].options.epochs, read[row].options.pooling) for row in range(3)] == [
        (3, "cls"), (default, "mean"), (3, "cls"),
    ]  # fmt: skip
    # nor do unread options change its folder
    other = text.replace('pooling = "cls"', 'pooling = "max"').replace("epochs = 3", "epochs = 9\ncheckpoint-every = 1")
    changed = [cell for cell in cells_of(tmp_path, f"seeds = [3]\n{other}") if cell.row == 1]
    assert [cell.name for cell in changed] == [cell.name for cell in linear]
    assert linear[0].name.startswith("linear-mean-seed3-")


def test_tuned_values_are_those_that_the_row_reads(tmp_path: Path) -> None:
    text = BASE.replace("heads = 2\n", "") + '[rows]\nfusion = ["xattn", "late"]\n[tune]\nheads = [2, 4]\n'
    rows = rows_of(tmp_path, text)
    assert [candidate.tuned for row in rows for candidate in row.candidates] == [{"heads": 2}, {"heads": 4}, {}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[rows]\nfusion = ["late", "xatn"]\n', "--fusion: input should be xattn, "),
        ('[rows]\nfusion = ["late", "xatn"]\n', "found 'xatn'; did you mean xattn"),
        ('[rows]\nsampling = ["both", "bukket"]\n', "did you mean bucket?"),
        ("[rows]\npatience = [1, 0]\n", "--patience: input should be greater than 0, found 0 (in patience=0)"),
        ("[rows]\nheads = [2, 3]\n", "dim must be a multiple of heads, found dim=256 heads=3 (in heads=3)"),
        ('[rows]\nfusion = ["late", "audio"]\n[base]\npooling = "cls"\n', "cls"),
        ('[rows]\naudio-encoder = ["fourier2vec", "wav2vec"]\n', "found 'wav2vec'; did you mean wav2vec2"),
        ('[rows]\ntext-encoder = ["fourier2vec"]\n', "(fourier2vec is an encoder for audio"),
        ('[rows]\nfusion = ["late", "text"]\n[base]\nresidual = true\n', "[base] residual has no effect on any row"),
        ('[rows]\nfusion = ["late", "text"]\n[tune]\nheads = [2, 4]\n', "[tune] heads has no effect on any row"),
        (
            '[rows]\nfusion = ["text", "linear_text"]\n[base]\naudio-encoder = "fourier2vec"\n',
            "[base] audio-encoder has no effect on any row",
        ),
        ('[rows]\nfusion = ["linear"]\n[base]\nepochs = 3\n', "[base] epochs has no effect on any row"),
        ('[rows]\nfusion = ["linear"]\n[base]\npooling = "attn"\n', "[base] pooling has no effect on any row"),
        ('[rows]\nfusion = ["late", "linear"]\npooling = ["mean", "max"]\n', "two rows are the same: fusion=linear "),
        ("[rows]\ngamma = [1.0, 2.0]\n[base]\nloss = 'ce'\n", "two rows are the same: gamma=1.0 and gamma=2.0"),
        ('[rows]\nfusion = ["xattn", "late"]\nresidual = [true, false]\n', "two rows are the same: fusion=late "),
        ('[rows]\naudio-encoder = ["dual", "wav2vec2+vggish"]\n', "two rows are the same: audio-encoder=dual and"),
        ("[rows]\nmemory-gb = [1, 2]\n", "two rows are the same"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    assert message in fault(tmp_path, text)


def test_every_row_of_the_example_can_be_trained() -> None:
    rows = make_rows(read_grid(EXAMPLE), PLACE)
    assert len(rows) == 16 and all(len(row.candidates) == 2 for row in rows)


def test_a_fault_of_all_rows_is_named_once(tmp_path: Path) -> None:
    text = '[rows]\nfusion = ["xattn", "late"]\npooling = ["attn", "mean"]\n[base]\nepochs = 0\n'
    assert fault(tmp_path, text).count("--epochs: ") == 1


def test_a_cell_has_a_folder_for_its_configuration_alone(tmp_path: Path) -> None:
    few = cells_of(tmp_path, f'seeds = 2\n{BASE}[rows]\nfusion = ["xattn", "late"]\n')
    more = cells_of(
        tmp_path, f'seeds = [4, 1, 0]\n{BASE}[rows]\npooling = ["attn", "mean"]\nfusion = ["late", "xattn"]\n'
    )
    assert len({cell.run for cell in few}) == 4 and len({cell.run for cell in more}) == 12
    assert {cell.run for cell in few} < {cell.run for cell in more}  # seeds and rows can be added
    changed = cells_of(tmp_path, f'seeds = 2\n{BASE}epochs = 3\n[rows]\nfusion = ["xattn", "late"]\n')
    assert not {cell.run for cell in few} & {cell.run for cell in changed}
    # what changes no result changes no folder
    same = cells_of(tmp_path, f'seeds = 2\n{BASE}memory-gb = 1\n[rows]\nfusion = ["xattn", "late"]\n')
    assert [cell.run for cell in few] == [cell.run for cell in same]


def test_cells_with_equal_features_are_neighbours(tmp_path: Path) -> None:
    text = 'seeds = 2\n[base]\ndim = 8\n[rows]\nfusion = ["xattn", "late", "text"]\n'
    text += 'audio-encoder = ["fourier2vec", "fourier2vec@0"]\n'
    with pytest.raises(
        UsageError, match="two rows are the same: fusion=text audio-encoder=fourier2vec and fusion=text"
    ):
        cells_of(tmp_path, text)
    cells = cells_of(tmp_path, text.replace(', "text"', ""))
    features = [cell.features for cell in cells]
    assert len(cells) == 8 and len(set(features)) == 2
    assert features == sorted(features, key=features.index)
    assert sum(a != b for a, b in pairwise(features)) == 1


def test_folds_are_all_or_those_that_the_file_has(tmp_path: Path) -> None:
    ids = [{"utterance_id": name} for name in "abcd"]
    write_manifest(tmp_path / "train.jsonl", ids)
    fold = {"train": ["a", "b"], "valid": ["c"], "test": ["d"]}
    write_json(tmp_path / "folds-2.json", {"schema": 1, "folds": [fold, fold]})
    text = BASE + '[rows]\nfusion = ["xattn", "late"]\n'
    rows = rows_of(tmp_path, text)
    assert fold_numbers(read(tmp_path, text), rows, tmp_path) == [None]
    assert fold_numbers(read(tmp_path, f'folds = "all"\n{text}'), rows, tmp_path) == [1, 2]
    assert fold_numbers(read(tmp_path, f"folds = [2]\n{text}"), rows, tmp_path) == [2]
    with pytest.raises(UsageError, match="--fold must be 1 to 2"):
        fold_numbers(read(tmp_path, f"folds = [3]\n{text}"), rows, tmp_path)
    grid = read(tmp_path, f"folds = [2]\nseeds = [5]\n{text}")
    cells = make_cells(grid, rows, [2], tmp_path)
    assert [(cell.fold, cell.seed, cell.options.fold, cell.options.seed) for cell in cells] == [(2, 5, "2", 5)] * 2
    assert all("-fold2-seed5-" in cell.name for cell in cells)
