"""Ranges of a GRID.toml: what an option of each type can search, and one message for each fault."""

from typing import Any

import pytest

from mervn.config import TrainHeadOptions
from mervn.study.toml_values import Range, read_range


def read(option: str, **value: Any) -> Range:
    return read_range(TrainHeadOptions.model_fields[option].annotation, value)


def test_a_range_has_the_type_of_its_option() -> None:
    assert read("learning_rate", low=1e-5, high=1, log=True) == Range(1e-5, 1.0, log=True)
    assert isinstance(read("dropout", low=0, high=1).low, float)
    assert read("dim", low=64, high=256, step=64) == Range(64, 256, step=64, whole=True)
    assert read("batch_size", low=1, high=8) == Range(1, 8, whole=True)  # int or None


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("fusion", {"low": 0, "high": 1}, "must be a list of values, because the option takes no numbers"),
        ("residual", {"low": 0, "high": 1}, "the option takes no numbers"),
        ("dropout", {"low": 0}, r"must have low and high, and can have log or step, found \{'low': 0\}"),
        ("dropout", {"low": 0, "high": 1, "base": 2}, "must have low and high, and can have log or step"),
        ("dropout", {"low": "0", "high": 1}, "must have finite numbers, found '0'"),
        ("dropout", {"low": 0.0, "high": float("nan")}, "must have finite numbers, found nan"),
        ("dim", {"low": 8, "high": 16.0}, "must have whole numbers, found 16.0"),
        ("dim", {"low": True, "high": 16}, "must have whole numbers, found True"),
        ("dim", {"low": 16, "high": 16}, "must have low < high, found low=16 high=16"),
        ("dropout", {"low": 0, "high": 1, "log": True}, "must have log = true only with low > 0"),
        ("dropout", {"low": 0.1, "high": 1, "log": 1}, "must have log = true only with low > 0"),
        ("dropout", {"low": 0.1, "high": 1, "log": True, "step": 0.1}, "must have step without log"),
        ("dropout", {"low": 0.1, "high": 1, "step": 0.95}, "above 0 and at most high - low, found step=0.95"),
        ("dim", {"low": 1, "high": 9, "step": 0}, "above 0 and at most high - low, found step=0"),
    ],
)
def test_a_fault_of_a_range_is_named(option: str, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(option, **value)
