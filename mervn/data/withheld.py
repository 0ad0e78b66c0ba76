"""WithheldModality: a split whose streams of one modality are empty, to score a run without it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from features.errors import UsageError
from features.manifests.manifest import Utterance
from features.ragged import Ragged
from mervn.data.split import Batch, BatchRequest, Split
from mervn.data.streams import modality_of


class WithheldModality:
    """The utterances of another split, in the same batches, without the streams of one modality.

    Every stream of the modality is empty, as the text of an utterance without a transcript is.
    Implements `Split`.
    """

    def __init__(self, split: Split, modality: str) -> None:
        self.split, self.modality = split, modality

    def __len__(self) -> int:
        return len(self.split)

    @property
    def name(self) -> str:
        """train, valid or test."""
        return self.split.name

    @property
    def utterances(self) -> Sequence[Utterance]:
        """The N utterances."""
        return self.split.utterances

    @property
    def missing(self) -> Sequence[Utterance]:
        """Utterances without usable features or audio, of the withheld modality too."""
        return self.split.missing

    @property
    def targets(self) -> np.ndarray[Any, Any]:
        """(N,) int64: indices into the labels."""
        return self.split.targets

    @property
    def audio_seconds(self) -> np.ndarray[Any, Any]:
        """(N,) float64: durations, also if audio is withheld; zeros if no stream is audio."""
        return self.split.audio_seconds

    @property
    def syllables(self) -> np.ndarray[Any, Any]:
        """(N,) int64: lengths of the transcripts, also if text is withheld."""
        return self.split.syllables

    @property
    def lengths(self) -> Mapping[str, list[int]]:
        """Frames or tokens of each utterance, by stream; zeros for the withheld modality."""
        lengths = {}
        for name, sizes in self.split.lengths.items():
            lengths[name] = [0] * len(sizes) if self._is_withheld(name) else sizes
        return lengths

    @property
    def costs(self) -> list[float]:
        """Cost of scoring each utterance, with the withheld modality: it is read, then dropped."""
        return self.split.costs

    @property
    def inputs_sha256(self) -> str:
        """Hash of the inputs of the other split and of what is withheld from them."""
        return hashlib.sha256(f"{self.split.inputs_sha256}|without {self.modality}".encode()).hexdigest()

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return the batches of the other split, as indices."""
        return self.split.evaluation_batches(device)

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order."""
        for batch in self.split.batches(plan, device):
            yield Batch(batch.indices, batch.targets, self._reader(batch))

    def _reader(self, batch: Batch) -> Callable[[Sequence[int]], dict[str, Ragged]]:
        """Return a function from indices to their streams, without frames of the modality."""

        def read(indices: Sequence[int]) -> dict[str, Ragged]:
            streams = batch.inputs(indices)
            for name, stream in streams.items():
                if self._is_withheld(name):
                    streams[name] = Ragged.from_lengths(stream.values[:0], [0] * len(indices))
            return streams

        return read

    def _is_withheld(self, stream: str) -> bool:
        """Tell whether a stream is of the withheld modality."""
        return modality_of(stream) == self.modality


def refuse_withholding(run: object, streams: Collection[str], modality: str) -> None:
    """Raise UsageError unless a run with these streams reads the modality and another one."""
    found = sorted({modality_of(name) for name in streams}, reverse=True)
    if modality not in found:
        raise UsageError(
            f"--without {modality} must name a modality that the run reads, but {run} reads only {found[0]}"
        )
    if len(found) == 1:
        raise UsageError(f"--without {modality} must leave a modality to score, but {run} reads only {modality}")
