"""Padded: the interface of Ragged over padded values, for graphs whose batch and time axes are dynamic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from features.layout import Layout, padding_mask
from features.ragged import Ragged, at_least_fp32


@dataclass(frozen=True, eq=False)
class Padded(Ragged):
    """A batch of B sequences whose values (B * T, ...) include the padding of each sequence to T >= 1 frames.

    A graph of torch.export cannot hold the lengths as host integers, and so no packed values. Here
    every operation of `Ragged` has a form whose shapes depend on B and T alone. Whatever a layer
    computes in the padding, no operation reads it. `sizes` is empty. Create one with `of`.
    """

    batch: int
    """B; a symbolic integer during export, as `length`."""
    length: int
    """T."""
    real: Tensor
    """(B, T) bool, True = real frame."""

    @staticmethod
    def of(padded: Tensor, lengths: Tensor) -> Padded:
        """Wrap padded (B, T, ...) with lengths (B,) int64 in 0..T; the padding is set to zero."""
        layout = Padded._laid_out(padded, lengths)
        return layout.pack(layout.pad())

    @staticmethod
    def _laid_out(padded: Tensor, lengths: Tensor) -> Padded:
        """Wrap padded (B, T, ...), with whatever the padding holds."""
        batch, length = padded.shape[:2]
        return Padded(padded.flatten(0, 1), Layout(lengths, ()), batch, length, padding_mask(lengths, length))

    @property
    def segments(self) -> Tensor:
        """(B * T,) int64: index of the sequence that each frame belongs to."""
        numbers = torch.arange(self.batch, device=self.values.device)
        return numbers[:, None].expand(self.batch, self.length).reshape(-1)

    @property
    def batch_size(self) -> int:
        """B, the number of sequences."""
        return self.batch

    @property
    def max_length(self) -> int:
        """T."""
        return self.length

    @property
    def total(self) -> int:
        """B * T, the number of frames with padding."""
        return self.batch * self.length

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True = real frame."""
        return self.real

    @property
    def offsets(self) -> Tensor:
        """(B,) int64: index in `values` at which each sequence starts."""
        return torch.arange(self.batch, device=self.lengths.device) * self.length

    def replace(self, values: Tensor) -> Padded:
        """Return the same layout with other values (B * T, ...)."""
        return replace(self, values=values)

    def pad(self, fill: float = 0.0) -> Tensor:
        """Return (B, T, ...), with `fill` in the padding."""
        padded = self._padded()
        return padded.masked_fill(~_like(self.mask, padded), fill)

    def pack(self, padded: Tensor) -> Padded:
        """Return this layout with the values of a padded tensor (B, T, ...)."""
        return self.replace(padded.flatten(0, 1))

    def pad_time_major(self, backward: bool = False) -> Tensor:
        """Return (B, T, ...) with zeros in the padding; `backward` reverses the real frames of each sequence."""
        return (self._reversed() if backward else self).pad()

    def pack_time_major(self, padded: Tensor, backward: bool = False) -> Padded:
        """Return this layout with the values of a padded tensor (B, T, ...), the inverse of `pad_time_major`."""
        packed = self.pack(padded)
        return packed._reversed() if backward else packed

    def _reversed(self) -> Padded:
        """Return the real frames of each sequence in reverse order; the padding holds any frames."""
        first_plus_last = 2 * self.offsets + self.lengths - 1  # (B,): index i maps to first + last - i
        index = first_plus_last[self.segments] - torch.arange(self.total, device=self.values.device)
        return self.replace(self.values[index])

    def split(self) -> list[Tensor]:
        """Raise NotImplementedError: a graph cannot process each sequence on its own."""
        raise NotImplementedError("it processes each sequence on its own, for which a graph has no operation")

    def to(self, device: torch.device | str) -> Padded:
        """Copy the values and lengths to a device."""
        return Padded.of(self._padded().to(device), self.lengths.to(device))

    def join(self, other: Ragged) -> Padded:
        """Join two batches of the same B along time, with the padding of both at the end."""
        length = self.length + other.max_length
        both = torch.cat([self._padded(), other.pad()], dim=1).flatten(0, 1)  # (B * (T1 + T2), ...)
        position = torch.arange(length, device=both.device)[None]
        first = self.lengths[:, None]  # (B, 1)
        # a frame of the second sequence follows the real frames of the first one
        source = torch.where(position < first, position, position - first + self.length).clamp(max=length - 1)
        starts = torch.arange(self.batch, device=both.device)[:, None] * length
        values = both[(starts + source).reshape(-1)].unflatten(0, (self.batch, length))
        return Padded._laid_out(values, self.lengths + other.lengths)

    def fill_empty(self, frame: Tensor) -> Padded:
        """Return the batch with `frame` (1, D) as the only frame of every empty sequence."""
        padded = self._padded()
        is_first = torch.arange(self.length, device=padded.device) == 0  # (T,)
        filled = is_first & (self.lengths == 0)[:, None]  # (B, T)
        values = torch.where(_like(filled, padded), frame.to(padded.dtype), padded).flatten(0, 1)
        layout = Layout(self.lengths.clamp(min=1), ())
        return replace(self, values=values, layout=layout, real=self.real | filled)

    def one_frame(self, vectors: Tensor) -> Padded:
        """Return vectors (B, D) as sequences of one frame, except that empty sequences stay empty."""
        return Padded._laid_out(vectors[:, None], self.lengths.clamp(max=1))

    def windows(self, size: int, hop: int) -> Padded:
        """Return the windows (B * F, size) of samples (B * S,), S >= size: F = (S - size) // hop + 1."""
        starts = torch.arange(0, self.length - size + 1, hop, device=self.values.device)  # (F,)
        places = starts[:, None] + torch.arange(size, device=self.values.device)  # (F, size)
        return Padded._laid_out(self._padded()[:, places], (self.lengths - size) // hop + 1)

    def resized(self, padded: Tensor, new_length: Callable[[Any], Any]) -> Padded:
        """Wrap padded (B, T', ...), whose sequences have `new_length` of the lengths of these."""
        return Padded._laid_out(padded, new_length(self.lengths))

    def fp32_sum(self) -> Tensor:
        """Return the sum (B, ...) of each sequence over its frames, in fp32 or wider."""
        values = at_least_fp32(self._padded())
        # not a product with the mask: the padding may hold infinity
        return values.masked_fill(~_like(self.mask, values), 0.0).sum(1)

    def _padded(self) -> Tensor:
        """Return (B, T, ...), with whatever the padding holds."""
        padded: Tensor = self.values.unflatten(0, (self.batch, self.length))
        return padded


def _like(mask: Tensor, padded: Tensor) -> Tensor:
    """Return a mask (B, T) with further axes of size 1, as many as `padded` has."""
    return mask.reshape(*mask.shape, *[1] * (padded.ndim - 2))
