"""WithheldModality: a split whose streams of one modality are empty, to score a run without it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from features.errors import UsageError
from features.ragged import Ragged
from mervn.data.changed_split import ChangedSplit
from mervn.data.split import Lengths, Split
from mervn.data.streams import modality_of


class WithheldModality(ChangedSplit):
    """The utterances of another split, in the same batches, without the streams of one modality.

    Every stream of the modality is empty, as the text of an utterance without a transcript is.
    Implements `Split`.
    """

    def __init__(self, split: Split, modality: str) -> None:
        super().__init__(split)
        self.modality = modality

    @property
    def change(self) -> str:
        """Text of the change: the modality."""
        return f"without {self.modality}"

    @property
    def lengths(self) -> Mapping[str, Lengths]:
        """Frames or tokens of each utterance, by stream; zeros for the withheld modality."""
        lengths: dict[str, Lengths] = {}
        for name, sizes in self.split.lengths.items():
            lengths[name] = [0] * len(sizes) if self._is_withheld(name) else sizes
        return lengths

    def changed(self, streams: Mapping[str, Ragged], indices: Sequence[int]) -> dict[str, Ragged]:
        """Return the streams, without frames of the modality."""
        found = dict(streams)
        for name, stream in streams.items():
            if self._is_withheld(name):
                found[name] = Ragged.from_lengths(stream.values[:0], [0] * len(indices))
        return found

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
