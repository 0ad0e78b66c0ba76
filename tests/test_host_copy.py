"""HostCopy: the check and the rounding of a whole batch are those of each value."""

import numpy as np
import pytest
import torch

from features.extraction.host_copy import HostCopy
from features.ragged import Ragged


def copy_of(values: list[float]) -> HostCopy:
    return HostCopy(Ragged.from_lengths(torch.tensor(values)[:, None], [len(values)]))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 65_505.0, -7e4])
def test_a_value_that_is_no_number_of_the_dtype_is_found(place: int, value: float) -> None:
    values = [-1.0, 0.0, 65_504.0]
    assert copy_of(values).fits(torch.float16)
    values[place] = value
    assert not copy_of(values).fits(torch.float16)
    assert copy_of(values).fits(torch.float32) == np.isfinite(value)


def test_a_batch_without_frames_fits() -> None:
    assert copy_of([]).fits(torch.float16)


def test_rounding_to_fp16_is_that_of_numpy() -> None:
    """Every number of fp16, the halves between two of them, and what is next to these."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)].astype(np.float32)
    halves = (numbers[:-1] + numbers[1:]) / 2
    values = np.concatenate([numbers, halves, np.nextafter(halves, np.inf), np.nextafter(halves, -np.inf)])
    values = values[np.abs(values) <= 65_504].astype(np.float32)
    (found,) = copy_of(values.tolist()).sequences(torch.float16)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found[:, 0].view(np.uint16), values.astype(np.float16).view(np.uint16))
