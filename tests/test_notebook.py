"""`import mervn`: ten names, and results as plain dicts."""

from pathlib import Path

import pytest
from test_train_head import SMALL, made
from tiny import read_jsonl

import mervn

__all__ = ["made"]  # fixture


def test_the_ten_names_exist_and_no_other() -> None:
    assert len(mervn.__all__) == 10 and dir(mervn) == sorted(mervn.__all__)
    for name in mervn.__all__:
        assert getattr(mervn, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mervn.nothing  # noqa: B018


def test_a_run_is_trained_scored_compared_and_read_as_dicts(made: Path, tmp_path: Path) -> None:
    runs = []
    for fusion in ("text", "audio"):
        trained = mervn.train_head(made, **{**SMALL, "fusion": fusion, "output": tmp_path / fusion})
        runs.append(trained["run"])
        metrics = mervn.evaluate(trained["run"], split="test")
        found = mervn.results(trained["run"])
        assert found["training"] == trained["metrics"] and found["labels"] == ["happy", "sad"]
        saved = {key: value for key, value in metrics.items() if key != "test_looks"}
        assert found["metrics"]["test"] == saved
        assert found["predictions"]["test"] == read_jsonl(Path(trained["run"]) / "predictions-test.jsonl")
    compared = mervn.compare(*runs, metric="accuracy")
    assert {"sentence", "difference"} <= compared.keys()
    with pytest.raises(mervn.InputError, match="metric: .*found 'best'"):
        mervn.compare(*runs, metric="best")
    with pytest.raises(mervn.InputError, match="epoch: Extra inputs are not permitted"):
        mervn.train_head(made, epoch=3)
