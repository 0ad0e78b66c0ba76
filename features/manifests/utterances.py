"""Utterances: the lines of manifests, or some of them in any order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import overload

import numpy as np

from features.manifests.columns import Array, RepeatedTexts
from features.manifests.manifest_columns import ManifestColumns
from features.manifests.utterance import Utterance


class Utterances(Sequence[Utterance]):
    """Sequence that makes an `Utterance` when it is asked for one; slices share the columns.

    `order` are indices into the manifests, one after the other; by default all of them.
    """

    def __init__(self, manifests: Sequence[ManifestColumns], order: range | Array | None = None) -> None:
        self.manifests = tuple(manifests)
        self._firsts = list(accumulate(map(len, self.manifests), initial=0))
        """Index of the first utterance of each manifest, and their number."""
        self._order: range | Array = range(self._firsts[-1]) if order is None else order

    @classmethod
    def join(cls, parts: Iterable[Sequence[Utterance]]) -> Sequence[Utterance]:
        """Return the utterances of several sequences as one, in columns if they are."""
        manifests: list[ManifestColumns] = []
        orders: list[Array] = []
        parts = list(parts)
        for part in parts:
            if not isinstance(part, Utterances):
                return [utterance for each in parts for utterance in each]
            orders.append(np.asarray(part._order, np.int64) + sum(map(len, manifests)))
            manifests += part.manifests
        if not orders:
            return []
        order = np.concatenate(orders)
        joined = cls(manifests)
        return joined if np.array_equal(order, np.arange(len(joined))) else cls(manifests, order)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> Utterances: ...

    def __getitem__(self, index: int | slice) -> Utterance | Utterances:
        if isinstance(index, slice):
            return Utterances(self.manifests, self._order[index])
        manifest, line = self._place(index)
        return manifest[line]

    def __iter__(self) -> Iterator[Utterance]:
        return map(self.__getitem__, range(len(self)))

    def select(self, indices: Array) -> Utterances:
        """Return the utterances at indices (N,), which share the columns."""
        return Utterances(self.manifests, np.asarray(self._order, np.int64)[indices])

    def with_emotions(self, emotions: Sequence[str]) -> Utterances:
        """Return the utterances with other emotions, one per code of `codes`."""
        changed, first = [], 0
        for manifest in self.manifests:
            end = first + len(manifest.emotions.values)
            changed.append(manifest.with_emotions(emotions[first:end]))
            first = end
        return Utterances(changed, self._order)

    def _place(self, index: int) -> tuple[ManifestColumns, int]:
        """Return the manifest of an utterance, and its index there."""
        found = int(self._order[index])
        number = bisect_right(self._firsts, found) - 1
        return self.manifests[number], found - self._firsts[number]

    def utterance_id(self, index: int) -> str:
        """Return the id of an utterance, without making the utterance."""
        manifest, line = self._place(index)
        return manifest.ids[line]

    def transcript(self, index: int) -> str:
        """Return the transcript of an utterance, empty if it has none, without making the utterance."""
        manifest, line = self._place(index)
        return manifest.transcripts[line]

    @property
    def is_one_manifest(self) -> bool:
        """True if these are all utterances of one manifest, in its order."""
        return len(self.manifests) == 1 and isinstance(self._order, range) and self._order == range(self._firsts[-1])

    def utterance_ids(self) -> Iterator[str]:
        """Iterate over the ids of all utterances."""
        if isinstance(self._order, range) and self._order == range(self._firsts[-1]):
            return chain.from_iterable(manifest.ids for manifest in self.manifests)
        return map(self.utterance_id, range(len(self)))

    @property
    def num_files(self) -> int:
        """Number of the codes of `wav_paths`."""
        return sum(len(manifest.wav_paths.values) for manifest in self.manifests)

    def wav_path(self, code: int) -> str:
        """Return the path in the manifest of the file with this code of `wav_paths`."""
        manifest, code = self._file(code)
        return manifest.wav_paths.values[code]

    def audio_path(self, code: int) -> Path:
        """Return the path of the file with this code of `wav_paths`."""
        manifest, code = self._file(code)
        return manifest.audio_path(code)

    def _file(self, code: int) -> tuple[ManifestColumns, int]:
        """Return the manifest of a code of `wav_paths`, and the code there."""
        for manifest in self.manifests:
            if code < len(manifest.wav_paths.values):
                return manifest, code
            code -= len(manifest.wav_paths.values)
        raise IndexError("the code must be that of a file")

    def column(self, name: str) -> Array:
        """Return `starts`, `ends`, `channels` or `has_transcript` as an array (N,)."""
        return self._gather([np.asarray(getattr(each, name)) for each in self.manifests])

    def codes(self, name: str) -> tuple[Array, list[RepeatedTexts]]:
        """Return the codes (N,) of `speakers`, `wav_paths` or `emotions`, and the columns of the manifests.

        The codes of a manifest begin after those of the one before; None has the code -1.
        """
        columns: list[RepeatedTexts] = [getattr(each, name) for each in self.manifests]
        shifted, first = [], 0
        for column in columns:
            codes = np.asarray(column.codes)
            shifted.append(np.where(codes < 0, codes, codes + np.int32(first)))
            first += len(column.values)
        return self._gather(shifted), columns

    def _gather(self, columns: Sequence[Array]) -> Array:
        """Return the values of the utterances from the columns of all manifests."""
        joined = np.concatenate(columns) if len(columns) != 1 else columns[0]
        if isinstance(self._order, range):
            first, step = self._order.start, self._order.step
            return joined[first : first + step * len(self._order) : step] if step > 0 else joined[list(self._order)]
        return joined[self._order]


def id_reader(utterances: Sequence[Utterance]) -> Callable[[int], str]:
    """Return a function from the index of an utterance to its id."""
    if isinstance(utterances, Utterances):
        return utterances.manifests[0].ids.__getitem__ if utterances.is_one_manifest else utterances.utterance_id
    return lambda index: utterances[index].utterance_id


def id_at(utterances: Sequence[Utterance], index: int) -> str:
    """Return the id of the utterance at an index."""
    return utterances.utterance_id(index) if isinstance(utterances, Utterances) else utterances[index].utterance_id


def iterate_ids(utterances: Sequence[Utterance]) -> Iterator[str]:
    """Iterate over the ids of utterances."""
    if isinstance(utterances, Utterances):
        return utterances.utterance_ids()
    return (utterance.utterance_id for utterance in utterances)


def select(utterances: Sequence[Utterance], chosen: Array) -> Sequence[Utterance]:
    """Return the utterances chosen by a mask (N,), in their order; the same sequence if all are chosen."""
    if chosen.all():
        return utterances
    indices = np.flatnonzero(chosen)
    if isinstance(utterances, Utterances):
        return utterances.select(indices)
    return [utterances[index] for index in indices.tolist()]


def emotion_codes(utterances: Sequence[Utterance]) -> tuple[Array, list[str | None]]:
    """Return a code (N,) for each utterance's emotion, and the emotion of each code."""
    if isinstance(utterances, Utterances):
        codes, columns = utterances.codes("emotions")
        emotions: list[str | None] = list(chain.from_iterable(column.values for column in columns))
        without = codes < 0
        return (np.where(without, len(emotions), codes), [*emotions, None]) if without.any() else (codes, emotions)
    numbers: dict[str | None, int] = {}
    found = [numbers.setdefault(utterance.emotion, len(numbers)) for utterance in utterances]
    return np.array(found, np.int32), list(numbers)


def with_emotions(utterances: Sequence[Utterance], emotions: Sequence[str]) -> Sequence[Utterance]:
    """Return the utterances with other emotions, one per code of `emotion_codes`."""
    codes, before = emotion_codes(utterances)
    if list(emotions) == before:
        return utterances
    if isinstance(utterances, Utterances) and None not in before:
        return utterances.with_emotions(emotions)
    return [replace(each, emotion=emotions[code]) for each, code in zip(utterances, codes.tolist(), strict=True)]


def iterate_transcripts(utterances: Sequence[Utterance]) -> Iterator[str]:
    """Iterate over the transcripts of utterances, empty for those that have none."""
    return map(transcript_reader(utterances), range(len(utterances)))


def transcript_reader(utterances: Sequence[Utterance]) -> Callable[[int], str]:
    """Return a function from the index of an utterance to its transcript, empty if it has none."""
    if isinstance(utterances, Utterances):
        return utterances.transcript
    return lambda index: utterances[index].transcript or ""
