"""Resampling: equal to torchaudio, with bounded memory for any pair of rates."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import wave

from features.audio.resampling import MATRIX_ENTRIES, resample, resample_directly, resampled_length
from features.audio.torchaudio_import import import_torchaudio

COMMON = [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]
ODD = [11_127, 12_345, 44_101, 767_999, 1_009]


@pytest.mark.parametrize("rate", COMMON)
def test_common_rates_are_torchaudios_to_the_bit(rate: int) -> None:
    torchaudio, _ = import_torchaudio()
    samples = wave(0.7, 0, rate, 440.0)
    wanted = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16_000).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(resample(samples, rate, 16_000), wanted)
    divisor = math.gcd(rate, 16_000)
    assert rate * 16_000 // divisor**2 <= MATRIX_ENTRIES


@pytest.mark.parametrize("rate", [*COMMON, 12_345])
def test_direct_resampling_is_the_same_filter_in_higher_precision(rate: int) -> None:
    torchaudio, _ = import_torchaudio()
    samples, divisor = wave(0.3, 0, rate, 440.0), math.gcd(rate, 16_000)
    found = resample_directly(samples, rate // divisor, 16_000 // divisor)
    wanted = torchaudio.functional.resample(torch.from_numpy(samples).double(), rate, 16_000).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-7)


@pytest.mark.parametrize("rate", ODD)
def test_odd_rates_keep_a_tone(rate: int) -> None:
    time = np.arange(rate) / rate
    pitch = min(rate, 16_000) // 20
    found = resample(np.sin(2 * np.pi * pitch * time).astype(np.float32), rate, 16_000)
    assert len(found) == resampled_length(rate, rate, 16_000) == 16_000
    middle = slice(1000, -1000)
    wanted = np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(found[middle], wanted[middle], atol=5e-3)


@pytest.mark.parametrize("rate", ODD)
@pytest.mark.parametrize("length", [1, 2, 3, 17])
def test_the_shortest_inputs_have_the_closed_form_length(rate: int, length: int) -> None:
    found = resample(np.ones(length, np.float32), rate, 16_000)
    assert len(found) == resampled_length(length, rate, 16_000) and np.isfinite(found).all()


@pytest.mark.parametrize("rate", [11_127, 44_101, 767_999])
def test_odd_rates_take_little_memory(rate: int) -> None:
    code = (
        "import resource, sys; import numpy as np; from features.audio.resampling import resample; "
        f"samples = np.ones(5 * {rate}, np.float32); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        f"resample(samples, {rate}, 16_000); "
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "print((after - before) // (1 << 20 if sys.platform == 'darwin' else 1 << 10))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 300
