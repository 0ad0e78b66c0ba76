"""Inputs and lengths of stored utterances: of one, or of many in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from features.store.mapped import Array
from features.store.part import Columns, Part
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
    def of_part(cls, part: Part, columns: Columns, places: Array, indices: Array) -> StoredInputs:
        """Return the inputs of utterances of one part."""
        return cls(
            places=places,
            lengths=np.diff(part.offsets)[indices],
            generations=np.full(len(indices), part.generation, np.int64),
            num_inputs=columns.num_inputs[indices],
            input_sha256=np.array(list(map(columns.input_sha256.utf8, indices.tolist())), np.bytes_),
            crc32=columns.crc32[indices],
        )

    @classmethod
    def join(cls, parts: Sequence[StoredInputs], positions: Sequence[Array]) -> StoredInputs:
        """Return the inputs of several parts as one, each at its position."""
        order = np.argsort(np.concatenate([np.zeros(0, np.int64), *positions]))
        joined = []
        for field in fields(cls):
            columns = [getattr(part, field.name) for part in parts]
            joined.append(np.concatenate(columns)[order] if columns else np.zeros(0, np.int64))
        return cls(*joined)

    def select(self, chosen: Array) -> StoredInputs:
        """Return the inputs of the chosen utterances: a mask or indices."""
        return StoredInputs(*[getattr(self, field.name)[chosen] for field in fields(self)])

    def __len__(self) -> int:
        return len(self.places)
