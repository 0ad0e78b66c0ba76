"""Layout of a batch of sequences of different lengths: where the frames of each one lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Return the (B, max_length) bool mask of lengths (B,) int64: True = real frame."""
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, eq=False)
class Layout:
    """Lengths of B sequences, packed one after another.

    The place of each frame is computed when it is first needed: the samples of a batch, for
    example, are millions of frames, and most encoders do not ask for it.
    """

    lengths: Tensor
    """(B,) int64 on the device of the values."""
    sizes: tuple[int, ...]
    """The same lengths, as host integers."""

    @property
    def offsets(self) -> Tensor:
        """(B,) int64: index of the first frame of each sequence."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def segments(self) -> Tensor:
        """(sum T,) int64: index of the sequence (0..B-1) that each frame belongs to."""
        with torch.inference_mode(False):  # training may use it later
            # output_size: without it, torch would wait for the device to learn the sum
            return torch.repeat_interleave(self.lengths, output_size=sum(self.sizes))

    @cached_property
    def index(self) -> Tensor:
        """(sum T,) int64: index of each frame in the padded view flattened to (B * max_length, ...)."""
        device, sizes = self.lengths.device, self.sizes
        with torch.inference_mode(False):
            # Frame t of sequence b has index offsets[b] + t in the values, and b * max_length + t in
            # the padded view.
            shifts = torch.arange(len(sizes), device=device) * max(sizes, default=0) - self.offsets  # (B,)
            return torch.arange(sum(sizes), device=device) + shifts[self.segments]

    @staticmethod
    def known(lengths: Tensor, sizes: tuple[int, ...], segments: Tensor, index: Tensor) -> Layout:
        """Return a layout that was computed before."""
        layout = Layout(lengths, sizes)
        vars(layout).update(segments=segments, index=index)
        return layout
