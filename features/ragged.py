"""Ragged: sequences of different lengths, packed without padding; the one type in which sequences travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Return the (B, max_length) bool mask of lengths (B,) int64: True = real frame."""
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device; from the host to a GPU through pinned memory, so that nothing waits for the copy."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, eq=False)
class Ragged:
    """B sequences, packed one after another: values (sum T, ...) with lengths (B,).

    The layout (everything but `values`) is made once for each batch, on the device of the values, and its host integers
    travel with it, so that no operation here waits for a device. Make one with `from_sequences`, `from_lengths` or
    `from_padded`.
    """

    values: Tensor
    """(sum T, ...): the real frames of all sequences, any dtype."""
    lengths: Tensor
    """(B,) int64, on the device of `values`; 0 is legal."""
    sizes: tuple[int, ...]
    """The lengths again, as host integers."""
    segments: Tensor
    """(sum T,) int64: which of the B sequences a row belongs to."""
    index: Tensor
    """(sum T,) int64: where a row stands in the padded view flattened to (B * max_length, ...)."""

    @staticmethod
    def from_lengths(values: Tensor, sizes: Sequence[int]) -> Ragged:
        """Wrap packed values (sum T, ...) of sequences whose lengths are `sizes`; ValueError if they do not add up."""
        sizes = tuple(int(size) for size in sizes)
        if any(size < 0 for size in sizes) or sum(sizes) != values.shape[0]:
            raise ValueError(f"lengths must be >= 0 and add up to the {values.shape[0]} rows given, found {sizes}")
        return Ragged.derived(values, to_device(torch.tensor(sizes, dtype=torch.int64), values.device), sizes)

    @staticmethod
    def derived(values: Tensor, lengths: Tensor, sizes: Sequence[int]) -> Ragged:
        """Wrap values (sum T, ...) with lengths (B,) int64 on their device, which equal `sizes`: no copy is made."""
        sizes, device = tuple(sizes), values.device
        shifts = torch.arange(len(sizes), device=device) * max(sizes, default=0) - (lengths.cumsum(0) - lengths)  # (B,)
        segments = torch.repeat_interleave(lengths, output_size=sum(sizes))
        index = torch.arange(sum(sizes), device=device) + shifts[segments]
        return Ragged(values, lengths, sizes, segments, index)

    @staticmethod
    def of_layout(sizes: Sequence[int], device: torch.device | str = "cpu") -> Ragged:
        """Return a layout with rows of no width, to `pack` a padded tensor or `replace` values into."""
        return Ragged.from_lengths(torch.empty(sum(sizes), 0, device=device), sizes)

    @staticmethod
    def from_sequences(sequences: Sequence[Tensor]) -> Ragged:
        """Pack a non-empty list of tensors (T_i, ...) that agree in everything but T_i."""
        return Ragged.from_lengths(torch.cat(list(sequences)), [sequence.shape[0] for sequence in sequences])

    @staticmethod
    def from_padded(padded: Tensor, lengths: Tensor) -> Ragged:
        """Pack padded (B, T, ...) with lengths (B,): what stands in the padding is dropped, whatever it is."""
        sizes = tuple(lengths.tolist())
        if len(sizes) != padded.shape[0] or any(not 0 <= size <= padded.shape[1] for size in sizes):
            raise ValueError(f"lengths must be {padded.shape[0]} numbers in 0..{padded.shape[1]}, found {sizes}")
        mask = padding_mask(lengths.to(padded.device), padded.shape[1])
        return Ragged.from_lengths(padded[mask], sizes)

    @property
    def batch_size(self) -> int:
        """B, the number of sequences."""
        return len(self.sizes)

    @property
    def max_length(self) -> int:
        """The longest length, a host integer."""
        return max(self.sizes, default=0)

    @property
    def total(self) -> int:
        """The number of rows, sum T, a host integer."""
        return sum(self.sizes)

    @property
    def mask(self) -> Tensor:
        """(B, max_length) bool, True = real frame."""
        return padding_mask(self.lengths, self.max_length)

    def replace(self, values: Tensor) -> Ragged:
        """Return the same layout with other values (sum T, ...)."""
        if values.shape[0] != self.index.shape[0]:
            raise ValueError(f"values must have {self.index.shape[0]} rows, found {values.shape[0]}")
        return Ragged(values, self.lengths, self.sizes, self.segments, self.index)

    def pad(self, fill: float = 0.0) -> Tensor:
        """Return the padded view (B, max_length, ...), `fill` in the padding."""
        rest = self.values.shape[1:]
        flat = self.values.new_full((self.batch_size * self.max_length, *rest), fill)
        return flat.index_copy(0, self.index, self.values).view(self.batch_size, self.max_length, *rest)

    def pack(self, padded: Tensor) -> Ragged:
        """Return this layout with the real frames of a padded (B, max_length, ...): the inverse of `pad`."""
        return self.replace(padded.flatten(0, 1).index_select(0, self.index))

    def split(self) -> list[Tensor]:
        """Return the B sequences (T_i, ...) as views."""
        return list(self.values.split(self.sizes))

    def to(self, device: torch.device | str) -> Ragged:
        """Copy the values to a device and make the layout anew there."""
        values = to_device(self.values, device)
        return self if values is self.values else Ragged.from_lengths(values, self.sizes)


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Join two Ragged of the same B along time: each utterance becomes [first_i; second_i]."""
    if first.batch_size != second.batch_size:
        raise ValueError(f"both sides must hold as many sequences, found {first.batch_size} and {second.batch_size}")
    sizes = [a + b for a, b in zip(first.sizes, second.sizes, strict=True)]
    before = second.lengths.cumsum(0) - second.lengths  # rows of `second` in earlier utterances
    after = first.lengths.cumsum(0)  # rows of `first` up to and including this utterance
    rows_first = torch.arange(first.total, device=before.device) + before[first.segments]
    rows_second = torch.arange(second.total, device=before.device) + after[second.segments]
    values = first.values.new_empty((sum(sizes), *first.values.shape[1:]))
    values = values.index_copy(0, rows_first, first.values).index_copy(0, rows_second, second.values)
    return Ragged.derived(values, first.lengths + second.lengths, sizes)


def segment_sum(ragged: Ragged) -> Tensor:
    """Sum each sequence over its frames: (B, ...), in fp32 and then rounded; zeros for a length-0 sequence."""
    return _wide_sum(ragged).to(ragged.values.dtype)


def segment_mean(ragged: Ragged) -> Tensor:
    """Average each sequence (sum T, D) over its frames: (B, D), in fp32 and then rounded; zeros for length 0."""
    return (_wide_sum(ragged) / ragged.lengths.clamp(min=1)[:, None]).to(ragged.values.dtype)


def _wide_sum(ragged: Ragged) -> Tensor:
    """Return the sums in fp32 at least: a GPU adds bf16 one by one, and 256 + 0.5 is 256 in bf16."""
    values = ragged.values.float() if ragged.values.dtype in (torch.bfloat16, torch.float16) else ragged.values
    zeros = values.new_zeros((ragged.batch_size, *values.shape[1:]))
    return zeros.index_add(0, ragged.segments, values)


def _flatten(ragged: Ragged) -> tuple[list[Tensor], tuple[int, ...]]:
    return [ragged.values, ragged.lengths, ragged.segments, ragged.index], ragged.sizes


def _unflatten(tensors: list[Tensor], sizes: tuple[int, ...]) -> Ragged:
    values, lengths, segments, index = tensors
    return Ragged(values, lengths, sizes, segments, index)


pytree.register_pytree_node(Ragged, _flatten, _unflatten, serialized_type_name="features.ragged.Ragged")  # type: ignore[arg-type]
