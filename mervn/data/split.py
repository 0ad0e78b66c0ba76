"""Split: the protocol through which training and evaluation read utterances.

Stored features (`StoredSplit`) and live waveforms (`WaveformSplit`) implement it. Callers read it
with `for batch in split.batches(plan, device)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_ids
from features.ragged import Ragged
from mervn.data.augmentation import SpecMask

Lengths = Sequence[int] | np.ndarray[Any, Any]
"""Numbers of frames or tokens of N utterances."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Utterances to read as one batch, with the masks of their audio."""

    indices: Sequence[int]
    """Indices into the split."""
    masks: Sequence[SpecMask] = ()
    """One mask per utterance, or empty. Stored features are never masked."""


@dataclass(frozen=True)
class Batch:
    """Utterances that were read as one batch; `inputs` moves them to the device."""

    indices: list[int]
    """Indices into the split."""
    targets: Tensor
    """(B,) int64 on the device: indices into the labels."""
    read: Callable[[Sequence[int]], dict[str, Ragged]]
    """Function from indices, a subset of this batch, to their streams on the device."""

    def inputs(self, indices: Sequence[int] | None = None) -> dict[str, Ragged]:
        """Return the streams of all utterances, or only of those at `indices`.

        A part is read if the whole batch does not fit into memory.
        """
        return self.read(self.indices if indices is None else indices)


class Split(Protocol):
    """N utterances of one split, in the order of the manifest."""

    @property
    def name(self) -> str:
        """train, valid or test."""

    @property
    def utterances(self) -> Sequence[Utterance]:
        """The N utterances."""

    @property
    def missing(self) -> Sequence[Utterance]:
        """Utterances without usable features or audio: counted, but not trained on or scored."""

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """(N,) int64: indices into the labels."""

    @property
    def audio_seconds(self) -> np.ndarray[Any, Any]:
        """(N,) float64: durations; zeros if no stream is audio."""

    @property
    def syllables(self) -> np.ndarray[Any, Any]:
        """(N,) int64: lengths of the transcripts; zeros if no stream is text."""

    def __len__(self) -> int:
        """Return N."""

    @property
    def lengths(self) -> Mapping[str, Lengths]:
        """Frames or tokens of each utterance, by stream."""

    @property
    def costs(self) -> list[float]:
        """Cost of scoring each utterance, in any unit."""

    @property
    def inputs_sha256(self) -> str:
        """Hash over the ids and inputs of the utterances used."""

    @property
    def content_sha256(self) -> Mapping[str, str]:
        """Result of `hash_content` by modality that is read: equal for equal audio or transcripts."""

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return batches of utterances of similar cost, as indices; each utterance is in one."""

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order; an implementation may read ahead."""


def hash_content(utterances: Sequence[Utterance], hashes: Iterable[str]) -> str:
    """Hash the id and the hash of the samples or of the transcript of each utterance, in any order."""
    digest = hashlib.sha256()
    for utterance_id, sha256 in sorted(zip(iterate_ids(utterances), hashes, strict=True)):
        digest.update(f"{utterance_id}|{sha256}\n".encode())
    return digest.hexdigest()


def read_batch(split: Split, indices: Sequence[int], device: torch.device) -> Batch:
    """Read a single batch."""
    return next(iter(split.batches([BatchRequest(indices)], device)))


def count_empty(split: Split) -> dict[str, int]:
    """Return the number of utterances without frames or tokens, by stream."""
    return {name: int(np.count_nonzero(np.asarray(lengths) == 0)) for name, lengths in split.lengths.items()}
