"""Ragged: a batch of sequences of different lengths, packed without padding.

All sequences in this project have this type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from features.device import to_device
from features.frame_moves import place_frames, take_frames
from features.layout import Layout
from features.layout import padding_mask as padding_mask


@dataclass(frozen=True, eq=False)
class Ragged:
    """A batch of B sequences, packed one after another: values (sum T, ...) with lengths (B,).

    The layout (everything but `values`) is computed at most once per batch, on the device of the
    values. The lengths are also kept as host integers, so that no operation here waits for the
    device. Create one with `from_sequences`, `from_lengths` or `from_padded`.
    """

    values: Tensor
    """(sum T, ...): the real frames of all sequences, any dtype."""
    layout: Layout

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, on the device of `values`; 0 is allowed."""
        return self.layout.lengths

    @property
    def sizes(self) -> tuple[int, ...]:
        """The same lengths, as host integers."""
        return self.layout.sizes

    @property
    def segments(self) -> Tensor:
        """(sum T,) int64: index of the sequence (0..B-1) that each frame belongs to."""
        return self.layout.segments

    @property
    def index(self) -> Tensor:
        """(sum T,) int64: index of each frame in the padded view flattened to (B * max_length, ...)."""
        return self.layout.index

    @staticmethod
    def from_lengths(values: Tensor, sizes: Sequence[int]) -> Ragged:
        """Wrap packed values (sum T, ...) of sequences with these lengths.

        Raises ValueError if a length is negative, or if they do not add up to sum T.
        """
        sizes = tuple(map(int, sizes))
        if min(sizes, default=0) < 0 or sum(sizes) != values.shape[0]:
            raise ValueError(f"lengths must be >= 0 and add up to the {values.shape[0]} frames given, found {sizes}")
        lengths = to_device(torch.tensor(sizes, dtype=torch.int64), values.device)
        return Ragged.from_device_lengths(values, lengths, sizes)

    @staticmethod
    def from_device_lengths(values: Tensor, lengths: Tensor, sizes: Sequence[int]) -> Ragged:
        """Wrap values (sum T, ...) with lengths (B,) int64 that are on their device already.

        `sizes` must equal `lengths`. Nothing is copied between devices, and nothing is checked.
        """
        return Ragged(values, Layout(lengths, tuple(sizes)))

    @staticmethod
    def without_values(sizes: Sequence[int], device: torch.device | str = "cpu") -> Ragged:
        """Return a layout whose values have width 0, to `pack` a padded tensor into."""
        return Ragged.from_lengths(torch.empty(sum(sizes), 0, device=device), sizes)

    @staticmethod
    def from_sequences(sequences: Sequence[Tensor]) -> Ragged:
        """Pack a non-empty list of tensors (T_i, ...) that agree in everything but T_i."""
        return Ragged.from_lengths(torch.cat(list(sequences)), [len(tensor) for tensor in sequences])

    @staticmethod
    def from_padded(padded: Tensor, lengths: Tensor) -> Ragged:
        """Pack padded (B, T, ...) with lengths (B,) int64.

        The padding is dropped, whatever it contains. Raises ValueError unless there are B lengths
        in 0..T.
        """
        sizes = tuple(lengths.tolist())
        batch_size, max_length = padded.shape[:2]
        in_range = min(sizes, default=0) >= 0 and max(sizes, default=0) <= max_length
        if len(sizes) != batch_size or not in_range:
            raise ValueError(f"lengths must be {batch_size} integers in 0..{max_length}, found {sizes}")
        mask = padding_mask(lengths.to(padded.device), max_length)
        return Ragged.from_lengths(padded[mask], sizes)

    @property
    def batch_size(self) -> int:
        """B, the number of sequences."""
        return len(self.sizes)

    @property
    def max_length(self) -> int:
        """The length of the longest sequence, a host integer."""
        return max(self.sizes, default=0)

    @property
    def total(self) -> int:
        """The number of frames, sum T, a host integer."""
        return sum(self.sizes)

    @property
    def mask(self) -> Tensor:
        """(B, max_length) bool, True = real frame."""
        return padding_mask(self.lengths, self.max_length)

    @property
    def offsets(self) -> Tensor:
        """(B,) int64: index in `values` at which each sequence starts."""
        return self.layout.offsets

    @property
    def positions(self) -> Tensor:
        """(sum T,) int64: index of each frame within its own sequence."""
        return torch.arange(self.total, device=self.lengths.device) - self.offsets[self.segments]

    def replace(self, values: Tensor) -> Ragged:
        """Return the same layout with other values (sum T, ...).

        Raises ValueError if their number of frames differs.
        """
        if values.shape[0] != self.total:
            raise ValueError(f"values must have {self.total} frames, found {values.shape[0]}")
        return Ragged(values, self.layout)

    def map(self, function: Callable[[Tensor], Tensor]) -> Ragged:
        """Apply a function to the values (sum T, ...).

        Its result must have the same number of frames.
        """
        return self.replace(function(self.values))

    def pad(self, fill: float = 0.0) -> Tensor:
        """Return the padded view (B, max_length, ...), with `fill` in the padding."""
        rest = self.values.shape[1:]
        flat = place_frames(self.values, self.index, self.batch_size * self.max_length, fill)
        return flat.view(self.batch_size, self.max_length, *rest)

    def pack(self, padded: Tensor) -> Ragged:
        """Return this layout with the real frames of a padded tensor (B, max_length, ...).

        This is the inverse of `pad`.
        """
        return self.replace(take_frames(padded.flatten(0, 1), self.index))

    def pad_time_major(self, backward: bool = False) -> Tensor:
        """Return the padded view (B, max_length, ...) with zeros in the padding, for a recurrent layer.

        In memory, one time step follows another. With `backward`, each sequence is reversed within
        its own length.
        """
        steps = place_frames(self.values, self._steps(backward), self.batch_size * self.max_length, 0.0)
        return steps.view(self.max_length, self.batch_size, *self.values.shape[1:]).transpose(0, 1)

    def pack_time_major(self, padded: Tensor, backward: bool = False) -> Ragged:
        """Return this layout with the real frames of a padded tensor (B, max_length, ...).

        This is the inverse of `pad_time_major`.
        """
        return self.replace(take_frames(padded.transpose(0, 1).flatten(0, 1), self._steps(backward)))

    def _steps(self, backward: bool) -> Tensor:
        return self.layout.reversed_steps if backward else self.layout.steps

    def split(self) -> list[Tensor]:
        """Return the B sequences (T_i, ...) as views."""
        return list(self.values.split(self.sizes))

    def to(self, device: torch.device | str) -> Ragged:
        """Copy the values to a device and compute the layout there."""
        values = to_device(self.values, device)
        return self if values is self.values else Ragged.from_lengths(values, self.sizes)

    def join(self, other: Ragged) -> Ragged:
        """Join two Ragged of the same B along time: see `concatenate`."""
        sizes = [a + b for a, b in zip(self.sizes, other.sizes, strict=True)]
        sequences = chain.from_iterable(zip(self.split(), other.split(), strict=True))
        return Ragged.from_device_lengths(torch.cat(list(sequences)), self.lengths + other.lengths, sizes)

    def fill_empty(self, frame: Tensor) -> Ragged:
        """Return the batch with `frame` (1, D) as the only frame of every empty sequence."""
        if 0 not in self.sizes:
            return self
        sizes = [1 if size == 0 else 0 for size in self.sizes]
        lengths = (self.lengths == 0).long()
        frames = frame.expand(sum(sizes), -1).to(self.values.dtype)
        return self.join(Ragged.from_device_lengths(frames, lengths, sizes))

    def one_frame(self, vectors: Tensor) -> Ragged:
        """Return vectors (B, D) as sequences of one frame, except that empty sequences stay empty."""
        return Ragged.from_lengths(vectors[self.lengths > 0], [min(size, 1) for size in self.sizes])

    def windows(self, size: int, hop: int) -> Ragged:
        """Return the windows (sum F, size) of samples (sum S,), each S >= size: F = (S - size) // hop + 1."""
        return Ragged.from_sequences([samples.unfold(0, size, hop) for samples in self.split()])

    def resized(self, padded: Tensor, new_length: Callable[[Any], Any]) -> Ragged:
        """Pack padded (B, T', ...), whose sequences have `new_length` of the lengths of these."""
        return Ragged.without_values(list(map(new_length, self.sizes)), padded.device).pack(padded)

    def fp32_sum(self) -> Tensor:
        """Return the sum (B, ...) of each sequence over its frames, in fp32 or wider.

        A GPU would round after each addition, and 256 + 0.5 is 256 in bf16.
        """
        values = at_least_fp32(self.values)
        zeros = values.new_zeros((self.batch_size, *values.shape[1:]))
        return zeros.index_add(0, self.segments, values)


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Join two Ragged of the same B along time: each utterance becomes [first_i; second_i].

    Raises ValueError if they differ in B.
    """
    if first.batch_size != second.batch_size:
        raise ValueError(
            f"both inputs must have the same number of sequences, found {first.batch_size} and {second.batch_size}"
        )
    return first.join(second)


def segment_sum(ragged: Ragged) -> Tensor:
    """Sum each sequence over its frames: (B, ...), in fp32 and then rounded.

    A sequence of length 0 gives zeros.
    """
    return ragged.fp32_sum().to(ragged.values.dtype)


def segment_mean(ragged: Ragged) -> Tensor:
    """Average each sequence (sum T, D) over its frames: (B, D), in fp32 and then rounded.

    A sequence of length 0 gives zeros.
    """
    return (ragged.fp32_sum() / ragged.lengths.clamp(min=1)[:, None]).to(ragged.values.dtype)


def at_least_fp32(values: Tensor) -> Tensor:
    """Return values in fp32 if they are in bf16 or fp16, and unchanged otherwise."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _flatten(ragged: Ragged) -> tuple[list[Tensor], tuple[int, ...]]:
    return [ragged.values, ragged.lengths], ragged.sizes


def _unflatten(tensors: list[Tensor], sizes: tuple[int, ...]) -> Ragged:
    values, lengths = tensors
    return Ragged.from_device_lengths(values, lengths, sizes)


pytree.register_pytree_node(Ragged, _flatten, _unflatten, serialized_type_name="features.ragged.Ragged")  # type: ignore[arg-type]
