"""Frames of batches that are resident on a GPU, gathered for several batches at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from torch import Tensor

from features.layout import for_training
from mervn.data.stored_sequences import Sequences
from mervn.data.streamed_frames import spans

GATHER_BYTES = 1 << 26
"""Maximum bytes of stored features that are gathered at once; a larger batch is gathered alone."""


class ResidentFrames:
    """The frames of some batches; all are gathered when the first is needed.

    To launch an operation takes a GPU's host as long for several batches as for one.
    """

    def __init__(
        self, streams: Mapping[str, Sequence[Sequences]], index: Mapping[str, Tensor], totals: Mapping[str, list[int]]
    ) -> None:
        """Take, by stream, the index (sum T,) int64 of each frame in the resident tensors, and the frames per batch."""
        self._streams, self._index, self._totals = streams, index, totals

    def of(self, number: int) -> Sequence[Tensor]:
        """Return the frames (sum T, D) of a batch from each store, float32."""
        return [frames[number] for frames in self._frames]

    @cached_property
    @for_training
    def _frames(self) -> list[Sequence[Tensor]]:
        """By store, the frames of each batch."""
        return [each.take(self._index[name]).float().split(self._totals[name]) for name, each in _every(self._streams)]


def gather_together(
    streams: Mapping[str, Sequence[Sequences]],
    index: Mapping[str, Tensor],
    sizes: Mapping[str, Sequence[tuple[int, ...]]],
) -> Iterator[Callable[[], Sequence[Tensor]]]:
    """Yield for each batch a function that returns its frames (sum T, D) from each store, float32.

    `index` (sum T,) int64 are, by stream, the index of each frame of all batches in the resident
    tensors, and `sizes` the lengths of the sequences of each batch.
    """
    totals = {name: np.array(list(map(sum, own)), np.int64) for name, own in sizes.items()}
    ends = {name: [0, *own.cumsum().tolist()] for name, own in totals.items()}
    num_bytes = np.zeros(len(next(iter(sizes.values()))), np.int64)
    for name, each in _every(streams):
        num_bytes += totals[name] * each.store.dim * each.store.dtype.itemsize
    for span in spans(num_bytes.tolist(), GATHER_BYTES, len(num_bytes)):
        own_index = {name: each[ends[name][span.start] : ends[name][span.stop]] for name, each in index.items()}
        own_totals = {name: each[span].tolist() for name, each in totals.items()}
        frames = ResidentFrames(streams, own_index, own_totals)
        # no list of all functions: it would keep all frames
        yield from (partial(frames.of, number) for number in range(span.stop - span.start))


def _every(streams: Mapping[str, Sequence[Sequences]]) -> list[tuple[str, Sequences]]:
    """Return the sequences of all streams and layers, each with the name of its stream."""
    return [(name, each) for name, layers in streams.items() for each in layers]
