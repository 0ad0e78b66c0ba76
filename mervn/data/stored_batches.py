"""Batches of stored sequences: targets, layouts and frames on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.device import to_device
from features.layout import Layout, Layouts
from features.ragged import Ragged
from mervn.data.frames_together import BatchFrames, gather_together, spans
from mervn.data.split import Batch
from mervn.data.stored_sequences import Sequences
from mervn.data.streamed_frames import concatenated, frames_by_batch, gather_all, is_streamed, read_ahead

GROUP_BATCHES = 1024
"""Maximum number of batches whose targets and lengths go to the device at once."""
GROUP_FRAMES = 1 << 18
"""Maximum number of their frames in all streams; the places of each take some 50 bytes."""

Streams = Mapping[str, Sequence[Sequences]]
"""By stream, for each of its layers, the sequences of a split."""


@dataclass(frozen=True)
class StoredBatch:
    """Utterances that are read as one batch, and where their frames are."""

    streams: Streams
    device: torch.device
    indices: list[int]
    """Indices into the split."""
    layouts: Mapping[str, Layout]
    """By stream, the lengths of the sequences on the device."""
    whole: BatchFrames | None
    """The frames of the whole batch, if they are on the device or on their way."""

    def read(self, indices: Sequence[int]) -> dict[str, Ragged]:
        """Return float32 streams of utterances: (sum T, D), or (sum T, L, D) for L > 1 layers.

        `indices` are those of the batch, or a part of them if the batch does not fit into memory.
        """
        is_whole = list(indices) == self.indices
        if is_whole and self.whole is not None:
            frames = iter(self.whole.read())
        else:
            if self.whole is not None:
                self.whole.together.separate()  # memory does not suffice
            frames = iter(gather_all(_every(self.streams), indices, self.device))
        found = {}
        for name, layers in self.streams.items():
            parts = list(islice(frames, len(layers)))  # L tensors (sum T, D)
            values = parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)
            if is_whole:
                found[name] = Ragged(values, self.layouts[name])
            else:
                found[name] = Ragged.from_lengths(values, layers[0].sizes_of(indices))
        return found


def read_batches(
    streams: Streams, targets: np.ndarray[Any, Any], batches: Sequence[Sequence[int]], device: torch.device
) -> Iterator[Batch]:
    """Yield batches of utterances, given as indices into a split with these targets (N,) int64.

    Targets and lengths of many batches go to the device at once, and the places of their frames are
    computed together: a batch of resident features needs no transfer.
    """
    every = _every(streams)
    ahead = read_ahead(every, batches, device) if is_streamed(every, device) else None
    for chosen in _groups(streams, batches):
        group = list(map(list, chosen))  # one group at a time: lists need much more memory than arrays
        group_targets, layouts, resident = _place(streams, targets, group, device)
        frames: Iterator[BatchFrames | None] = resident or ahead or repeat(None)
        for i, (indices, whole) in enumerate(zip(group, frames, strict=False)):
            own_layouts = {name: of_batches[i] for name, of_batches in layouts.items()}
            yield Batch(indices, group_targets[i], StoredBatch(streams, device, indices, own_layouts, whole).read)


def _groups(streams: Streams, batches: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
    """Divide batches into groups of at most `GROUP_BATCHES`, and of `GROUP_FRAMES` frames or of one larger batch."""
    if not batches:
        return
    first_layers = [layers[0] for layers in streams.values()]
    frames = frames_by_batch(first_layers, batches, concatenated(batches))
    for span in spans(frames.tolist(), GROUP_FRAMES, GROUP_BATCHES):
        yield batches[span]


def _place(
    streams: Streams, targets: np.ndarray[Any, Any], group: Sequence[list[int]], device: torch.device
) -> tuple[Sequence[Tensor], dict[str, list[Layout]], Iterator[BatchFrames] | None]:
    """Return the targets and layouts of the batches of a group, by one copy to the device, and their frames.

    The latter are None unless all streams are resident on the GPU.
    """
    order = list(chain.from_iterable(group))
    sizes, columns = {}, [targets[order][None]]
    for name, layers in streams.items():
        lengths = iter(layers[0].sizes_of(order))
        sizes[name] = [tuple(islice(lengths, len(indices))) for indices in group]
        columns += [layers[0].starts[order][None], Layouts.columns_of(sizes[name])]
    on_device = to_device(torch.from_numpy(np.concatenate(columns)), device)  # (1 + 5 streams, sum B)
    is_there = device.type != "cpu" and all(each.is_on(on_device.device) for each in _every(streams))
    layouts, index = {}, {}
    for name, own in zip(streams, on_device[1:].split(5), strict=True):
        places = Layouts(own[1], sizes[name], own[2:])
        layouts[name] = places.layouts()
        if is_there:
            index[name] = places.frames_in(own[0])
    resident = gather_together(streams, index, sizes) if is_there else None
    return on_device[0].split(list(map(len, group))), layouts, resident


def _every(streams: Streams) -> list[Sequences]:
    """Return the sequences of all streams and layers."""
    return list(chain.from_iterable(streams.values()))
