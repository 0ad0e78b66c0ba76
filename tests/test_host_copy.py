"""HostCopy: the check and the rounding of a whole batch are those of each value."""

import numpy as np
import pytest
import torch

from features.errors import InputError
from features.extraction.encode import _to_dtype
from features.extraction.host_copy import HostCopy, is_finite
from features.ragged import Ragged


def copy_of(values: list[float]) -> HostCopy:
    return HostCopy(Ragged.from_lengths(torch.tensor(values)[:, None], [len(values)]))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf"), 65_520.0, -7e4])
def test_a_value_that_is_no_number_of_the_dtype_is_found(place: int, value: float) -> None:
    values = [-1.0, -65_504.0, 65_519.0]  # the last one is rounded to 65504
    assert copy_of(values).fits(torch.float16)
    values[place] = value
    assert not copy_of(values).fits(torch.float16)
    assert copy_of(values).fits(torch.float32) == np.isfinite(value)


def test_a_batch_without_frames_fits() -> None:
    assert copy_of([]).fits(torch.float16)


@pytest.mark.parametrize("negative", [False, True])
def test_every_number_of_fp16_is_finite_or_not_as_numpy_says(negative: bool) -> None:
    """One by one, and among numbers of the other sign."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    other = np.array([0.0, 65_504.0 if negative else -65_504.0], np.float16)
    for number in numbers[np.signbit(numbers) == negative]:
        expected = bool(np.isfinite(number))
        assert is_finite(number[None]) == is_finite(np.append(other, number)) == expected


@pytest.mark.parametrize("value", [65_519.0, -65_519.0, 65_520.0])
def test_a_value_fits_whatever_else_is_in_its_batch(value: float) -> None:
    """A batch with NaN is rounded utterance by utterance, by another function."""
    alone = copy_of([value])
    if not alone.fits(torch.float16):
        with pytest.raises(InputError, match=r"'u': features must fit into fp16 \(at most 65504\), found 65520"):
            _to_dtype(np.array([value], np.float32), np.dtype(np.float16), "u")
        return
    found = _to_dtype(np.array([value], np.float32), np.dtype(np.float16), "u")
    np.testing.assert_array_equal(found, alone.sequences(torch.float16)[0][:, 0])


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
