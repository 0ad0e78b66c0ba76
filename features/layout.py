"""Layout of a batch of sequences of different lengths: where the frames of each one lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
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
    group: Layouts | None = field(default=None, repr=False)
    """The layouts that were made together with this one, if any."""
    number: int = 0
    """The number of this batch in the group."""

    def __reduce__(self) -> tuple[type[Layout], tuple[Tensor, tuple[int, ...]]]:
        """Copy and pickle this batch alone; the tensors of its group would be pickled with it."""
        return Layout, (self.lengths.clone(), self.sizes)

    @cached_property
    def _group(self) -> Layouts:
        return self.group or Layouts(self.lengths, [self.sizes])

    @property
    def offsets(self) -> Tensor:
        """(B,) int64: index of the first frame of each sequence."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def segments(self) -> Tensor:
        """(sum T,) int64: index of the sequence (0..B-1) that each frame belongs to."""
        return self._group.segments[self.number]

    @property
    def index(self) -> Tensor:
        """(sum T,) int64: index of each frame in the padded view flattened to (B * max_length, ...)."""
        return self._group.index[self.number]

    @property
    def steps(self) -> Tensor:
        """(sum T,) int64: index of each frame in time steps flattened to (max_length * B, ...)."""
        return self._group.steps[self.number]

    @property
    def reversed_steps(self) -> Tensor:
        """The same, with the frames of each sequence in reverse order."""
        return self._group.reversed_steps[self.number]


for_training = torch.inference_mode(False)
"""Decorator of what training may use even if inference needed it first."""


class Layouts:
    """Layouts of several batches; whatever is first needed of one of them is computed for all.

    The places of a batch take some ten small operations, which a GPU would launch one by one for
    each batch.
    """

    def __init__(self, lengths: Tensor, sizes: Sequence[tuple[int, ...]], columns: Tensor | None = None) -> None:
        """Take the lengths (sum B,) int64 of the sequences of all batches, and `sizes`, the same by batch.

        `columns` are the last three that `columns_of` returns for these sizes, on the device of the
        lengths. One batch needs none.
        """
        self.lengths, self.sizes = lengths, sizes
        self._totals = list(map(sum, sizes))
        self._numbers: Tensor
        """(sum B,) int64: index of each sequence in its batch."""
        self._batch_size: Tensor | int
        """Number of sequences in the batch of each sequence, (sum B,) int64; one number for one batch."""
        self._longest: Tensor | int
        """Length of the longest of them, in the same form."""
        if columns is not None:
            self._numbers, self._batch_size, self._longest = columns
        else:
            (own,) = sizes
            self._batch_size, self._longest = len(own), max(own, default=0)
            self._numbers = torch.arange(len(own), device=lengths.device)

    @staticmethod
    def columns_of(sizes: Sequence[tuple[int, ...]]) -> np.ndarray[Any, Any]:
        """Return what several batches need on a device, (4, sum B) int64; the first column are the lengths."""
        batch_sizes, longest = list(map(len, sizes)), [max(each, default=0) for each in sizes]
        lengths = np.array(list(chain.from_iterable(sizes)), np.int64)
        numbers = np.concatenate(list(map(np.arange, batch_sizes)))
        return np.stack([lengths, numbers, np.repeat(batch_sizes, batch_sizes), np.repeat(longest, batch_sizes)])

    def layouts(self) -> list[Layout]:
        """Return the layout of each batch."""
        lengths = self.lengths.split(list(map(len, self.sizes)))
        return [Layout(own, sizes, self, i) for i, (own, sizes) in enumerate(zip(lengths, self.sizes, strict=True))]

    @property
    def _offsets(self) -> Tensor:
        """(sum B,) int64: index of the first frame of each sequence among the frames of all batches."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    @for_training
    def _owners(self) -> Tensor:
        """(sum T,) int64: the sequence, of those of all batches, that each frame belongs to."""
        # output_size: without it, torch would wait for the device to learn the sum
        return torch.repeat_interleave(self.lengths, output_size=sum(self._totals))

    def _positions(self) -> Tensor:
        """Return the index (sum T,) int64 of each frame within its own sequence."""
        return _count(self._owners, self._offsets)

    @cached_property
    @for_training
    def segments(self) -> list[Tensor]:
        """By batch, (sum T,) int64: index of the sequence (0..B-1) that each frame belongs to."""
        numbers = self._numbers[self._owners] if len(self.sizes) > 1 else self._owners
        return self._by_batch(numbers)

    @cached_property
    @for_training
    def index(self) -> list[Tensor]:
        """By batch, (sum T,) int64: index of each frame in the padded view flattened to (B * max_length, ...)."""
        # Frame t of sequence b has index offsets[b] + t here, and b * max_length + t in the padded view.
        return self._by_batch(_count(self._owners, self._offsets - self._numbers * self._longest))

    @cached_property
    @for_training
    def steps(self) -> list[Tensor]:
        """By batch, (sum T,) int64: index of each frame in time steps flattened to (max_length * B, ...)."""
        return self._by_batch(self._step(self._positions()))

    @cached_property
    @for_training
    def reversed_steps(self) -> list[Tensor]:
        """The same, with the frames of each sequence in reverse order."""
        return self._by_batch(self._step((self.lengths - 1)[self._owners] - self._positions()))

    def _step(self, positions: Tensor) -> Tensor:
        """Return the index in time steps (sum T,) of frames with these positions in their sequences."""
        size = self._batch_size
        return positions * (size if isinstance(size, int) else size[self._owners]) + self._numbers[self._owners]

    def _by_batch(self, frames: Tensor) -> list[Tensor]:
        """Divide (sum T,) among the batches."""
        return list(frames.split(self._totals))

    def frames_in(self, starts: Tensor) -> Tensor:
        """Return the index (sum T,) int64 of each frame of all batches in a tensor where sequences begin at `starts`.

        `starts` (sum B,) int64 is the index of the first frame of each sequence.
        """
        return _count(self._owners, self._offsets - starts)


def _count(owners: Tensor, offsets: Tensor) -> Tensor:
    """Return 0, 1, 2, ... minus the offset of the owner, for each of `owners`, int64."""
    return torch.arange(len(owners), device=owners.device) - offsets[owners]
