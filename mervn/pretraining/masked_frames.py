"""Masked frames: predict the log-mel of hidden spans from what surrounds them.

As in Mockingjay (Liu et al. 2020, arXiv:1910.12638), with the spans of wav2vec 2.0 (Baevski et al. 2020,
arXiv:2006.11477): hidden frames are zero, the mean, at the input of the convolutions, and a linear head on the last
layer predicts them with L1. Nothing of a hidden frame reaches the network: the utterance is normalised by the mean and
the deviation of its visible frames.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.fourier2vec import Fourier2Vec
from features.ragged import Ragged, segment_sum

LEAST_DEVIATION = 0.1
"""Of a mel's visible log energies: a visible part that is digitally silent must not blow up the hidden one."""
MEL_PER_FRAME = 2
LEAST_MEL = 4
"""Mel frames of the shortest utterance of which something is hidden and something seen."""


def draw_positions(rng: np.random.Generator, num_mel: int, start: float, span: int) -> Tensor:
    """Return the 50 Hz frames (M,) int64 to hide of an utterance of so many mel frames, in order.

    Spans begin at a share `start` of the frames, at least one and so few that at most half is hidden. A last frame
    that has one mel frame alone is never hidden; of a single frame nothing is.
    """
    frames = num_mel // MEL_PER_FRAME
    span = min(span, frames // 2)
    if not span:
        return torch.zeros(0, dtype=torch.int64)
    spans = int(start * frames + rng.random())
    spans = min(max(1, spans), max(1, frames // (2 * span)))
    starts = rng.choice(frames - span + 1, spans, replace=False)
    return torch.from_numpy(np.unique(starts[:, None] + np.arange(span)))


class MaskedFrames(nn.Module):
    """An encoder with a linear head that predicts the two normalised mel frames of a 50 Hz frame."""

    def __init__(self, encoder: Fourier2Vec) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, MEL_PER_FRAME * encoder.config["num_mels"])

    def forward(self, mel: Ragged, hidden: Ragged) -> tuple[Tensor, Tensor]:
        """Return prediction and target (sum M, 2 * num_mels) of hidden 50 Hz frames.

        `mel` are raw log-mel frames (sum F, num_mels), `hidden` the numbers (sum M,) int64 of each utterance's frames.
        """
        first = (MEL_PER_FRAME * hidden.values + _begins(mel)[hidden.segments])[:, None]
        rows = first + torch.arange(MEL_PER_FRAME, device=first.device)  # (sum M, 2)
        normal, visible = normalise_visible(mel, rows.flatten())
        (encoded,) = self.encoder.encode_frames(mel.replace(normal * visible))
        chosen = encoded.values[hidden.values + _begins(encoded)[hidden.segments]]
        return self.head(chosen), normal[rows].flatten(1)


def normalise_visible(mel: Ragged, hidden_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return (sum F, num_mels) normalised by each utterance's visible frames, and (sum F, 1): 1 where visible."""
    visible = mel.values.new_ones(mel.total, 1).index_fill(0, hidden_frames, 0.0)
    count = segment_sum(mel.replace(visible)).clamp(min=1)  # (B, 1)
    mean = segment_sum(mel.replace(mel.values * visible)) / count
    centred = mel.values - mean[mel.segments]
    deviation = (segment_sum(mel.replace((centred * visible).square())) / count).sqrt().clamp(min=LEAST_DEVIATION)
    return centred / deviation[mel.segments], visible


def l1_sums(prediction: Tensor, target: Tensor, hidden: Ragged) -> Tensor:
    """Return the sum over hidden frames of the mean absolute error, (B,)."""
    return segment_sum(hidden.replace((prediction - target).abs().mean(1)))


def _begins(ragged: Ragged) -> Tensor:
    """Return the row at which each sequence begins, (B,) int64."""
    return ragged.lengths.cumsum(0) - ragged.lengths
