"""Frames of several batches on a device, computed together by one operation per store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from features.layout import for_training
from features.memory import is_out_of_memory
from mervn.data.stored_sequences import Sequences

GATHER_BYTES = 1 << 26
"""Maximum bytes of stored features that are gathered at once; a larger batch is gathered alone."""

Source = Callable[[slice], Tensor]
"""Function from a range of the frames of several batches to these frames (K, D), float32 on a device."""


class FramesTogether:
    """The frames of some batches; all are computed when the first is read.

    To launch an operation takes a GPU's host as long for several batches as for one. If memory does
    not suffice for all, each batch is computed alone.
    """

    def __init__(self, sources: Sequence[Source], counts: Sequence[Sequence[int]]) -> None:
        """Take a source and the number of frames of each batch, both by store."""
        self._sources, self._counts = sources, counts
        self._frames: list[Sequence[Tensor]] | None = None
        self._is_together = True

    @for_training
    def read(self, number: int) -> list[Tensor]:
        """Return the frames (sum T, D) of a batch from each store."""
        if self._frames is None and self._is_together:
            self._compute()
        if self._frames is not None:
            return [frames[number] for frames in self._frames]
        found = []
        for source, counts in zip(self._sources, self._counts, strict=True):
            first = sum(counts[:number])
            found.append(source(slice(first, first + counts[number])))
        return found

    def separate(self) -> None:
        """Release what was computed; each batch is computed alone from now on."""
        self._frames, self._is_together = None, False

    def batches(self) -> Iterator[BatchFrames]:
        """Yield the frames of each batch; they stay in memory as long as the caller refers to one of these."""
        for number in range(len(self._counts[0])):
            yield BatchFrames(self, number)

    def _compute(self) -> None:
        try:
            frames = []
            for source, counts in zip(self._sources, self._counts, strict=True):
                frames.append(source(slice(0, sum(counts))).split(list(counts)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._is_together = False
        else:
            self._frames = frames


@dataclass(frozen=True)
class BatchFrames:
    """The frames of one batch, which are computed together with those of others."""

    together: FramesTogether
    number: int

    def read(self) -> list[Tensor]:
        """Return the frames (sum T, D) from each store, float32."""
        return self.together.read(self.number)


def gather_together(
    streams: Mapping[str, Sequence[Sequences]],
    index: Mapping[str, Tensor],
    sizes: Mapping[str, Sequence[tuple[int, ...]]],
) -> Iterator[BatchFrames]:
    """Yield the frames of each batch from each store, of streams that are resident on a GPU.

    `index` (sum T,) int64 are, by stream, the index of each frame of all batches in the resident
    tensors, and `sizes` the lengths of the sequences of each batch.
    """
    totals = {name: np.array(list(map(sum, own)), np.int64) for name, own in sizes.items()}
    ends = {name: [0, *own.cumsum().tolist()] for name, own in totals.items()}
    every = [(name, each) for name, layers in streams.items() for each in layers]
    num_bytes = np.zeros(len(next(iter(sizes.values()))), np.int64)
    for name, each in every:
        num_bytes += totals[name] * each.store.dim * each.store.dtype.itemsize
    for span in spans(num_bytes.tolist(), GATHER_BYTES, len(num_bytes)):
        own = {name: each[ends[name][span.start] : ends[name][span.stop]] for name, each in index.items()}
        sources = [_resident(each, own[name]) for name, each in every]
        yield from FramesTogether(sources, [totals[name][span].tolist() for name, _ in every]).batches()


def _resident(sequences: Sequences, index: Tensor) -> Source:
    """Return the source of the frames at index (sum T,) int64 of the resident tensor."""
    return lambda places: sequences.take(index[places]).float()


def spans(costs: Sequence[int], max_cost: float, max_count: int) -> Iterator[slice]:
    """Divide items into ranges of at most `max_count` that cost at most `max_cost` together, or of one item."""
    first, total = 0, 0
    for i, cost in enumerate(costs):
        if i > first and (i - first == max_count or total + cost > max_cost):
            yield slice(first, i)
            first, total = i, 0
        total += cost
    if costs:
        yield slice(first, len(costs))
