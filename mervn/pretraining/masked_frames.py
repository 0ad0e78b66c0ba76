"""Masked-frame prediction: predict the log-mel frames of masked spans from the visible frames.

As in Mockingjay (Liu et al. 2020, arXiv:1910.12638), with the spans of wav2vec 2.0 (Baevski et al.
2020, arXiv:2006.11477): masked frames are zero, the mean, at the input of the convolutions, and a
linear head on the last layer predicts them with an L1 loss. Masked frames do not leak into the
input: each utterance is normalized with the mean and standard deviation of its visible frames only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.fourier2vec import Fourier2Vec
from features.ragged import Ragged, segment_sum

MIN_DEVIATION = 0.1
"""Minimum standard deviation of a mel band.

It keeps the targets finite if the visible part is digital silence."""
MEL_PER_FRAME = 2
"""Mel frames (100 Hz) per frame of the encoder (50 Hz)."""
MIN_MEL = 4
"""Minimum number of mel frames for an utterance to have both masked and visible frames."""


def draw_positions(rng: np.random.Generator, num_mel: int, start: float, span: int) -> Tensor:
    """Draw the 50 Hz frames (M,) int64 to mask in an utterance of `num_mel` mel frames, sorted.

    Spans of `span` frames begin at a fraction `start` of the frames. There is at least one span,
    and the spans cover at most half of all frames. A last frame with only one mel frame is never
    masked, and neither is a single frame.
    """
    frames = num_mel // MEL_PER_FRAME
    span = min(span, frames // 2)
    if not span:
        return torch.zeros(0, dtype=torch.int64)
    spans = int(start * frames + rng.random())  # the number of spans, rounded at random
    spans = min(max(1, spans), max(1, frames // (2 * span)))
    starts = rng.choice(frames - span + 1, spans, replace=False)
    return torch.from_numpy(np.unique(starts[:, None] + np.arange(span)))


class MaskedFrames(nn.Module):
    """Encoder with a linear head that predicts the normalized mel frames of masked 50 Hz frames."""

    def __init__(self, encoder: Fourier2Vec) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.dim, MEL_PER_FRAME * encoder.config["num_mels"])

    def forward(self, mel: Ragged, hidden: Ragged) -> tuple[Tensor, Tensor]:
        """Return predictions and targets (sum M, 2 * num_mels) of the masked 50 Hz frames.

        `mel` holds raw log-mel frames (sum F, num_mels), `hidden` the indices (sum M,) int64 of
        each utterance's masked 50 Hz frames.
        """
        # Indices of the masked mel frames in the packed batch.
        first = (MEL_PER_FRAME * hidden.values + mel.offsets[hidden.segments])[:, None]
        masked = first + torch.arange(MEL_PER_FRAME, device=first.device)  # (sum M, 2)
        normal, visible = normalize_visible(mel, masked.flatten())
        (encoded,) = self.encoder.encode_frames(mel.replace(normal * visible))
        chosen = encoded.values[hidden.values + encoded.offsets[hidden.segments]]
        return self.head(chosen), normal[masked].flatten(1)


def normalize_visible(mel: Ragged, hidden_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames (sum F, num_mels), normalized with the visible frames, and the mask.

    `mel` holds raw log-mel frames (sum F, num_mels), `hidden_frames` the indices in it of the
    masked ones. The mask (sum F, 1) is 1 for visible frames and 0 for masked ones.
    """
    visible = mel.values.new_ones(mel.total, 1).index_fill(0, hidden_frames, 0.0)
    count = segment_sum(mel.replace(visible)).clamp(min=1)  # (B, 1)
    mean = segment_sum(mel.replace(mel.values * visible)) / count
    centred = mel.values - mean[mel.segments]
    deviation = (segment_sum(mel.replace((centred * visible).square())) / count).sqrt().clamp(min=MIN_DEVIATION)
    return centred / deviation[mel.segments], visible


def l1_sums(prediction: Tensor, target: Tensor, hidden: Ragged) -> Tensor:
    """Return the mean absolute error of each masked frame, summed per utterance: (B,).

    Prediction and target are (sum M, 2 * num_mels); only the layout of `hidden` is used.
    """
    return segment_sum(hidden.replace((prediction - target).abs().mean(1)))
