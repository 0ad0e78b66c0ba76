"""Frames of batches on their way from stores to a device, several batches in one transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.device import to_device
from features.extraction.prefetch import Prefetch
from mervn.data.frames_together import BatchFrames, FramesTogether, Source, spans
from mervn.data.stored_sequences import Sequences

ALIGNMENT = 64
"""Multiple of bytes at which the frames of a store begin in a block: at least the size of a value."""
TRANSFER_BYTES, TRANSFER_BATCHES = 128 << 20, 32
"""Maximum bytes and number of batches per transfer; a larger batch is a transfer of its own. Training waits for the
Python of a transfer: with batches of 16 MB, it takes a quarter less per batch at 128 MB than at 64 MB."""


@dataclass(frozen=True)
class HostBuffer:
    """Frames of several stores in one block of host memory, so that one copy takes them to a device."""

    block: Tensor
    """(bytes,) uint8."""
    ranges: Sequence[slice]
    """Where the frames of each store lie in the block."""
    kinds: Sequence[tuple[torch.dtype, int]]
    """Dtype and width of each store."""
    counts: Sequence[list[int]]
    """For each store, the number of frames of each batch."""

    @staticmethod
    def of(
        sequences: Sequence[Sequences],
        indices: np.ndarray[Any, Any],
        counts: Sequence[list[int]],
        pinned: bool = False,
    ) -> HostBuffer:
        """Read the frames of the sequences at `indices` (sum B,) of several batches from each store.

        `counts` are the frames of each batch, by store; pinned memory is for a GPU.
        """
        ranges, kinds, end = [], [], 0
        for each, frames in zip(sequences, map(sum, counts), strict=True):
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + frames * each.frame_bytes
            ranges.append(slice(start, end))
            kinds.append((each.dtype, each.store.dim))
        num_bytes = -(-end // ALIGNMENT) * ALIGNMENT  # a multiple of the size of any value
        block = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        buffer = HostBuffer(block, ranges, kinds, counts)
        for each, place in zip(sequences, buffer.frames_in(block), strict=True):
            each.gather_into(place, indices)
        return buffer

    def frames_in(self, block: Tensor) -> list[Tensor]:
        """Return the frames (sum T, D) of each store, as views of the block or of a copy of it."""
        found, typed = [], dict[torch.dtype, Tensor]()
        for place, (dtype, width) in zip(self.ranges, self.kinds, strict=True):
            if dtype not in typed:
                typed[dtype] = block.view(dtype)
            count = (place.stop - place.start) // (width * dtype.itemsize)
            found.append(typed[dtype].as_strided((count, width), (width, 1), place.start // dtype.itemsize))
        return found

    def batches(self, device: torch.device) -> Iterator[BatchFrames]:
        """Copy the block to a device, without waiting if it is pinned; yield the frames of each batch by store."""
        frames = self.frames_in(self.block.to(device, non_blocking=True))
        return FramesTogether(list(map(_copied, frames)), self.counts).batches()


def _copied(frames: Tensor) -> Source:
    """Return the source of frames (sum T, D) that are on the device."""
    return lambda places: frames[places].float()


def concatenated(batches: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    """Return the indices of all batches, (sum B,) int64."""
    # no list of an array: its integers would take four times the memory
    return np.concatenate([np.asarray(batch, np.int64) for batch in batches])


def frames_by_batch(
    sequences: Sequence[Sequences], batches: Sequence[Sequence[int]], order: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the number of frames of each batch, summed over the stores, (N,) int64.

    `order` (sum B,) are the indices of all batches.
    """
    ends = np.zeros(len(order) + 1, np.int64)
    for each in sequences:
        ends[1:] += each.lengths_of(order)
    return np.diff(ends.cumsum()[np.cumsum([0, *map(len, batches)])])


def gather_all(sequences: Sequence[Sequences], indices: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return the frames (sum T, D) of the sequences at `indices` from each store, float32 on a device.

    Frames that are not resident on a GPU reach it in one transfer.
    """
    if is_streamed(sequences, device):
        counts = [[sum(each.sizes_of(indices))] for each in sequences]
        buffer = HostBuffer.of(sequences, np.asarray(indices, np.int64), counts, pinned=device.type == "cuda")
        (frames,) = buffer.batches(device)
        return frames.read()
    return [to_device(each.gather_float(indices), device) for each in sequences]


def is_streamed(sequences: Sequence[Sequences], device: torch.device) -> bool:
    """Tell whether each batch is copied from the store to a GPU."""
    return device.type != "cpu" and not any(each.resident for each in sequences)


def transfer_spans(num_bytes: Sequence[int]) -> list[slice]:
    """Divide batches of these sizes into transfers.

    The first ones hold 1, 2, 4, ... batches: training waits for the first batch, and for no more than that.
    """
    found, first, count = [], 0, 1
    while first < len(num_bytes):
        span = next(spans(num_bytes[first : first + count], TRANSFER_BYTES, count))
        found.append(slice(first, first + span.stop))
        first, count = first + span.stop, min(2 * count, TRANSFER_BATCHES)
    return found


def read_ahead(
    sequences: Sequence[Sequences], batches: Sequence[Sequence[int]], device: torch.device
) -> Iterator[BatchFrames]:
    """Yield the frames of each batch by store, on a device.

    A thread reads them while the device computes.
    """
    if not batches:
        return
    order, ends = concatenated(batches), np.cumsum([0, *map(len, batches)])
    # for all batches at once: a call of NumPy takes as long for one transfer
    counts = np.stack([frames_by_batch([each], batches, order) for each in sequences])  # (stores, batches)
    num_bytes = np.array([each.frame_bytes for each in sequences]) @ counts
    transfers = transfer_spans(num_bytes.tolist())

    def read(span: slice) -> HostBuffer:
        indices = order[ends[span.start] : ends[span.stop]]
        return HostBuffer.of(sequences, indices, counts[:, span].tolist(), pinned=device.type == "cuda")

    # nothing while waiting: a training that was interrupted first completes its step
    prefetch = Prefetch[slice, HostBuffer](read, 1, lambda buffer: buffer.block.nbytes, lambda: None)
    with closing(prefetch):
        prefetch.add((span, None) for span in transfers)
        for _ in transfers:
            yield from prefetch.take().batches(device)
