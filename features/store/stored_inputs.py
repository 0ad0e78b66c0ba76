"""Inputs and lengths of stored utterances: of one, or of many in columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from features.store.mapped import Array
from features.store.part import Columns, Part
from features.store.place_table import INDEX
from features.store.sources import SourceKey


@dataclass(frozen=True)
class UtteranceInfo:
    """Length of one utterance's features, and the input that they were computed from.

    The fields are described at `StoredUtterance` and `Part`.
    """

    length: int
    """Number of frames or tokens."""
    generation: int
    num_inputs: int
    input_sha256: str
    source: str
    crc32: int

    @classmethod
    def of_part(cls, part: Part, columns: Columns, index: int, sources: Mapping[SourceKey, str]) -> UtteranceInfo:
        """Return the info of an utterance of a part; `sources` are the newer ones of sources.jsonl."""
        digest = columns.input_sha256[index]
        source = columns.source[index]
        return cls(
            length=part.num_frames(index),
            generation=part.generation,
            num_inputs=int(columns.num_inputs[index]),
            input_sha256=digest,
            source=sources.get((part.utterance_ids[index], digest), source) if sources else source,
            crc32=int(columns.crc32[index]),
        )


@dataclass(frozen=True, eq=False)
class StoredInputs:
    """Lengths and inputs of N utterances of a store, one array (N,) per field of `UtteranceInfo`."""

    places: Array
    """int64: see `PlaceTable`."""
    lengths: Array
    """int64"""
    generations: Array
    """int64"""
    num_inputs: Array
    """int64"""
    input_sha256: Array
    """The hashes as bytes."""
    crc32: Array
    """uint32"""

    @classmethod
    def read(cls, places: Array, parts: Iterable[tuple[Array, Part, Columns]]) -> StoredInputs:
        """Read the inputs of utterances at places (N,), part by part.

        `parts` yields each part with its columns, and the positions of its places.
        """
        # whole arrays from the start: many small ones would leave holes in the memory of the process
        lengths, generations, num_inputs = (np.zeros(len(places), np.int64) for _ in range(3))
        hashes, checksums = np.zeros(len(places), "S64"), np.zeros(len(places), np.uint32)
        for positions, part, columns in parts:
            indices = places[positions] & INDEX
            lengths[positions] = np.diff(part.offsets)[indices]
            generations[positions] = part.generation
            num_inputs[positions] = columns.num_inputs[indices]
            found = np.array(list(map(columns.input_sha256.utf8, indices.tolist())), np.bytes_)
            hashes = hashes.astype(max(hashes.dtype, found.dtype, key=lambda dtype: dtype.itemsize), copy=False)
            hashes[positions] = found
            checksums[positions] = columns.crc32[indices]
        return cls(places, lengths, generations, num_inputs, hashes, checksums)

    def select(self, chosen: Array) -> StoredInputs:
        """Return the inputs of the chosen utterances: a mask or indices."""
        return StoredInputs(*[getattr(self, field.name)[chosen] for field in fields(self)])

    def __len__(self) -> int:
        return len(self.places)
