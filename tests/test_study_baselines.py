"""Baselines of a study: one linear head per set of features, and the majority of train, never of what is scored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from test_cells import BASE, read, rows_of

from mervn.config import TrainHeadOptions
from mervn.evaluation.intervals import group_units, unit_confusions
from mervn.study.cells import Row, make_cells
from mervn.study.pooled_scores import Pooled
from mervn.study.study_baselines import (
    add_linear,
    label_key,
    linear_fusion,
    majority_predictions,
    majority_row,
    most_frequent,
)

SMALL = '[base]\ndim = 8\nmlp = [8]\ntext-encoder = "hashed_ngrams"\n'


def with_linear(folder: Path, text: str) -> tuple[list[Row], list[tuple[str, int | None]]]:
    """Return the rows, and for each its name and the number of its linear head."""
    rows = add_linear(rows_of(folder, text))
    return rows, [(str(row), row.linear) for row in rows]


def test_each_set_of_features_has_one_linear_head(tmp_path: Path) -> None:
    text = f'{SMALL}[rows]\naudio-encoder = ["fourier2vec", "fourier2vec@0"]\nfusion = ["late", "xattn"]\n'
    rows, found = with_linear(tmp_path, text)
    assert found == [
        ("audio-encoder=fourier2vec fusion=late", 4), ("audio-encoder=fourier2vec fusion=xattn", 4),
        ("audio-encoder=fourier2vec@0 fusion=late", 5), ("audio-encoder=fourier2vec@0 fusion=xattn", 5),
        ("linear audio-encoder=fourier2vec", None), ("linear audio-encoder=fourier2vec@0", None),
    ]  # fmt: skip
    for number in (4, 5):
        assert rows[number].is_baseline and not rows[number].is_reference
        (candidate,) = rows[number].candidates
        assert candidate.resolved.fusion.linear and candidate.features == rows[2 * number - 8].candidates[0].features
    assert rows[4].candidates[0].identity != rows[5].candidates[0].identity


def test_a_row_of_one_modality_is_compared_with_that_modality_alone(tmp_path: Path) -> None:
    text = f'{BASE.replace("heads = 2", "")}[rows]\nfusion = ["late", "text", "audio"]\n[tune]\ngamma = [1.0, 2.0]\n'
    rows, found = with_linear(tmp_path, text)
    assert found[3:] == [("linear", None), ("linear_text", None), ("linear_audio", None)]
    assert [linear for _, linear in found[:3]] == [3, 4, 5]
    for row in rows[:3]:
        assert row.linear is not None
        (linear,) = rows[row.linear].candidates  # which reads no gamma
        assert linear.resolved.fusion.streams == row.candidates[0].resolved.fusion.streams and not linear.tuned
    assert linear_fusion(("audio", "text")) == "linear" and linear_fusion(("video",)) is None


def test_a_linear_row_of_the_grid_is_not_added_again(tmp_path: Path) -> None:
    _, found = with_linear(tmp_path, f'{SMALL}pooling = "max"\n[rows]\nfusion = ["linear", "late", "text"]\n')
    assert found == [("fusion=linear", None), ("fusion=late", 0), ("fusion=text", 3), ("linear_text", None)]


def test_the_linear_head_has_the_options_that_it_reads(tmp_path: Path) -> None:
    text = f'{SMALL}fusion = "late"\n[rows]\nclass-weights = ["none", "balanced"]\npooling = ["mean", "attn"]\n'
    rows, found = with_linear(tmp_path, text)
    assert [linear for _, linear in found] == [4, 4, 5, 5, None, None]
    assert [row.axes for row in rows[4:]] == [
        {"class_weights": "none", "pooling": None}, {"class_weights": "balanced", "pooling": None},
    ]  # fmt: skip
    assert [row.candidates[0].resolved.options.class_weights for row in rows[4:]] == ["none", "balanced"]


def test_baselines_are_cells_with_one_seed_and_keep_the_cells_of_the_rows(tmp_path: Path) -> None:
    text = f'seeds = [4, 2]\n{SMALL}[rows]\nfusion = ["late"]\n'
    grid, rows = read(tmp_path, text), rows_of(tmp_path, text)
    plain = make_cells(grid, rows, [1, 2], tmp_path)
    cells = make_cells(grid, add_linear(rows), [1, 2], tmp_path)
    assert [cell.run for cell in cells if cell.row == 0] == [cell.run for cell in plain]
    assert [(cell.fold, cell.seed) for cell in cells if cell.row == 1] == [(1, 4), (2, 4)]
    features = [cell.features for cell in cells]
    assert features == sorted(features, key=features.index)  # neighbours, so that features are opened once


def test_the_majority_is_that_of_scikit_learn_on_train_by_fold() -> None:
    labels, train = ("angry", "happy", "sad"), {1: ["sad", "happy", "sad", "angry"], 2: ["happy", "angry"]}
    truth = np.array([0, 0, 0, 2, 1, 0])  # angry is the most frequent of what is scored
    keys = tuple((1 if i < 3 else 2, f"u{i}") for i in range(6))
    units = group_units(["a", "b", "a", "b", "a", "b"])
    scored = Pooled(keys, labels, units, {5: unit_confusions(truth, truth, units, 3)}, truth)
    key = label_key(TrainHeadOptions())
    answers, expected = {}, []
    for fold, emotions in train.items():
        answers[key, fold] = most_frequent(emotions)
        dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(emotions), 1)), emotions)
        expected += [labels.index(name) for name in dummy.predict(np.zeros((3, 1)))]
    found = majority_predictions(scored, key, answers)
    assert expected == [2, 2, 2, 0, 0, 0] and not found.has_seeds
    (counts,) = found.confusions.values()
    assert np.array_equal(counts, unit_confusions(truth, np.array(expected), units, 3))
    of_scored = unit_confusions(truth, np.full(6, 0), units, 3)
    assert not np.array_equal(counts, of_scored)  # control: the majority of what is scored


def test_labels_decide_which_majorities_are_the_same(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"dim": 8, "fusion": "text"}
    assert label_key(TrainHeadOptions(**plain)) == label_key(TrainHeadOptions(epochs=3))
    dropped = TrainHeadOptions(drop_label=("sad",))
    assert label_key(dropped) != label_key(TrainHeadOptions())
    row = rows_of(tmp_path, f'{SMALL}drop-label = ["sad"]\n[rows]\nfusion = ["text", "late"]\n')[0]
    row = replace(row, axes={"fusion": "text", "drop_label": ["sad"]})
    assert majority_row(row).axes == {"fusion": "majority", "drop_label": ["sad"]}
    assert str(majority_row(row)) == "majority drop-label=sad"


@pytest.mark.parametrize(("emotions", "answer"), [("bbaa", "a"), ("abb", "b")])
def test_of_equally_frequent_labels_the_first_by_name_is_the_majority(emotions: str, answer: str) -> None:
    assert most_frequent(emotions) == answer
