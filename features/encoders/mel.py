"""Triangular mel filters over the bins of a short-time Fourier transform at 16 kHz."""

from __future__ import annotations

import torch
from torch import Tensor

from features.audio.resampling import SAMPLE_RATE

FFT = 512
"""Length of the Fourier transform in samples."""


def mel_filters(num_mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Return triangular filters float64 (FFT // 2 + 1, num_mels) on HTK's mel scale.

    mel = 1127 ln(1 + f / 700).
    """

    def mel(hz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hz / 700)

    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
