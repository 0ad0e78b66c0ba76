"""Merge of two audio streams with different frame rates, at the frames of the first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.ragged import Ragged
from mervn.data.streams import StreamShape


class AudioMerge(nn.Module):
    """Aligns a second audio stream to the frames of the first, then joins the two.

    Alignment is by time within each utterance, so an utterance's result does not depend on its
    batch. Frame i of the first stream is centred on sample t = centre + stride * i. `time` chooses
    the frame of the second stream: `repeat` takes the frame whose stride contains t (frame floor(t
    / stride), at most the last one), `linear` interpolates between the two frames whose centres are
    nearest to t. `merge` joins them: `concat` concatenates the features, `sum` adds a learned
    projection of the second stream to the first.
    """

    def __init__(self, first: StreamShape, second: StreamShape, merge: str, time: str) -> None:
        super().__init__()
        self.first, self.second, self.time = first, second, time
        self.project = nn.Linear(second.width, first.width) if merge == "sum" else None
        self.width = first.width if merge == "sum" else first.width + second.width

    def forward(self, first: Ragged, second: Ragged) -> Ragged:
        """Map (sum T1, D1) and (sum T2, D2) to (sum T1, width).

        An empty sequence of the second stream counts as zeros.
        """
        aligned = self._align(first, second)
        if self.project is not None:
            return first.replace(first.values + self.project(aligned))
        return first.replace(torch.cat([first.values, aligned], dim=-1))

    def _align(self, first: Ragged, second: Ragged) -> Tensor:
        """Return the second stream resampled to the frames of the first, (sum T1, D2)."""
        # In samples. float64: sample numbers of long recordings are not exact in float32.
        centres = self.first.centre + self.first.stride * first.positions.double()  # (sum T1,)
        last = (second.lengths - 1).clamp(min=0)[first.segments]  # of the second sequence
        if self.time == "repeat":
            frame = (centres / self.second.stride).floor().long().minimum(last)
            return self._take_frames(second, first, frame)
        position = ((centres - self.second.centre) / self.second.stride).clamp(min=0).minimum(last.double())
        lower = position.floor().long()
        weight = (position - lower).to(second.values.dtype)[:, None]  # of the upper neighbour
        aligned = self._take_frames(second, first, lower) * (1 - weight)
        return aligned + self._take_frames(second, first, (lower + 1).minimum(last)) * weight

    @staticmethod
    def _take_frames(second: Ragged, first: Ragged, frame: Tensor) -> Tensor:
        """Return frames (sum T1, D2) of the second stream.

        `frame` (sum T1,) int64 is, for each frame of the first stream, the number of the frame to
        take within the second sequence of the same utterance.
        """
        if not second.total:
            return second.values.new_zeros((first.total, second.values.shape[1]))
        starts = second.offsets[first.segments]
        # The clamp keeps the index valid for an empty last sequence, which is set to zero below.
        frames = second.values[(starts + frame).clamp(max=second.total - 1)]
        return frames.masked_fill((second.lengths == 0)[first.segments][:, None], 0.0)
