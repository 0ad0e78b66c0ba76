"""ChangedSplit: the utterances of another split, with some of their streams changed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from features.manifests.manifest import Utterance
from features.ragged import Ragged
from mervn.data.split import Batch, BatchRequest, Lengths, Split


class ChangedSplit(ABC):
    """The utterances of another split, in the same batches, with other streams.

    Implements `Split`. Everything that is not a stream is that of the other split.
    """

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    @property
    def name(self) -> str:
        """train, valid or test."""
        return self.split.name

    @property
    def utterances(self) -> Sequence[Utterance]:
        """The N utterances, as in the manifest."""
        return self.split.utterances

    @property
    def missing(self) -> Sequence[Utterance]:
        """Utterances without usable features or audio, also of a stream that is changed."""
        return self.split.missing

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """(N,) int64: indices into the labels."""
        return self.split.targets

    @property
    def audio_seconds(self) -> np.ndarray[Any, Any]:
        """(N,) float64: durations, also if audio is changed; zeros if no stream is audio."""
        return self.split.audio_seconds

    @property
    def syllables(self) -> np.ndarray[Any, Any]:
        """(N,) int64: lengths of the transcripts of the manifest."""
        return self.split.syllables

    @property
    def costs(self) -> list[float]:
        """Cost of scoring each utterance, with the streams of the other split: these are read too."""
        return self.split.costs

    @property
    def inputs_sha256(self) -> str:
        """Hash of the inputs of the other split and of the change."""
        return hashlib.sha256(f"{self.split.inputs_sha256}|{self.change}".encode()).hexdigest()

    @property
    def content_sha256(self) -> Mapping[str, str]:
        """Hash of the audio and of the transcripts of the other split."""
        return self.split.content_sha256

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return the batches of the other split, as indices."""
        return self.split.evaluation_batches(device)

    @final
    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order."""
        for batch in self.split.batches(plan, device):
            yield Batch(batch.indices, batch.targets, self._reader(batch))

    def _reader(self, batch: Batch) -> Callable[[Sequence[int]], dict[str, Ragged]]:
        """Return a function from indices to their changed streams."""
        return lambda indices: self.changed(batch.inputs(indices), indices)

    @property
    @abstractmethod
    def change(self) -> str:
        """Text of the change, which is equal only for equal inputs."""

    @property
    @abstractmethod
    def lengths(self) -> Mapping[str, Lengths]:
        """Frames or tokens of each utterance after the change, by stream."""

    @abstractmethod
    def changed(self, streams: Mapping[str, Ragged], indices: Sequence[int]) -> dict[str, Ragged]:
        """Return the changed streams of the utterances at these indices."""
