"""Compares the inputs of a corpus with those of a store, part by part and with little memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features.audio.segment import AudioError
from features.errors import InputError
from features.extraction.audio_segments import SourceTexts
from features.extraction.encoder_input import Freshness, InputComparison
from features.extraction.transcripts import TranscriptHashes
from features.hash_index import HashIndex
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.manifests.utterances import id_at, id_reader, iterate_ids
from features.progress import SILENT, Reporter
from features.store.faults import VanishedPartError
from features.store.part import Columns, Part, read_columns
from features.store.reader import FeatureStore
from features.store.rejected import Rejection
from features.store.sources import SourceKey, read_sources

ATTEMPTS = 10
"""Maximum number of comparisons if parts are compacted before they can be read."""


@dataclass(frozen=True)
class StoredInput:
    """Input that stored features were computed from."""

    input_sha256: str
    source: str


@dataclass
class Compared:
    """Result of the comparison of N utterances with a store."""

    is_stored: Array
    """(N,) bool: the store has features of the same input."""
    is_changed: Array
    """(N,) bool: the store has features of another input."""
    moved: dict[int, str] = field(default_factory=dict)
    """Stored utterances whose file was touched or moved, with their new source."""
    unusable: dict[int, Rejection] = field(default_factory=dict)
    """Utterances whose audio cannot be decoded for the comparison."""


class CorpusComparison:
    """Compares utterances with stores.

    `current` are the sources of the audio or the hashes of the transcripts now.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        comparison: InputComparison,
        current: SourceTexts | TranscriptHashes | None,
        reporter: Reporter = SILENT,
    ) -> None:
        self.utterances, self.comparison, self.reporter = utterances, comparison, reporter
        # what is equal needs no other comparison, unless the audio is to be decoded anyway
        self._current = None if comparison.decode else current
        self.index = HashIndex.of(iterate_ids(utterances), id_reader(utterances))

    def compare(self, store: FeatureStore, skipped: Array) -> Compared:
        """Compare the utterances that are not `skipped` (N,) with a store."""
        for _ in range(ATTEMPTS):
            found = Compared(np.zeros(len(skipped), bool), np.zeros(len(skipped), bool))
            try:
                self._compare_parts(store, skipped, found)
            except VanishedPartError:
                store.refresh()
                continue
            found.moved, found.unusable = dict(sorted(found.moved.items())), dict(sorted(found.unusable.items()))
            return found
        raise InputError(f"{store.path}: its parts are removed before they can be read; is it being compacted?")

    def _compare_parts(self, store: FeatureStore, skipped: Array, found: Compared) -> None:
        """Compare utterances with each part; raises VanishedPartError if one was removed."""
        with closing(self.reporter.progress(len(skipped), 0, "stored inputs")) as bar:
            unequal = self._unequal(store, skipped, found, bar)
            with closing(self.comparison.compare(unequal)) as compared:
                for i, freshness in compared:
                    self._record(i, freshness, found)
                    bar.update(1)

    def _unequal(
        self, store: FeatureStore, skipped: Array, found: Compared, bar: Any
    ) -> Iterator[tuple[int, Utterance, StoredInput]]:
        """Record utterances whose source or transcript is that of the store; yield the others."""
        newer = read_sources(store.path)
        for part, indices, places in self._by_part(store, skipped):
            columns = read_columns(part.path, store.info.modality)
            count = 0
            for i, stored in self._unequal_of(columns, indices, places, newer, found):
                count += 1
                yield i, self.utterances[i], stored
            bar.update(len(indices) - count)

    def _by_part(self, store: FeatureStore, skipped: Array) -> Iterator[tuple[Part, list[int], list[int]]]:
        """Yield the parts that hold utterances, with the indices of these and their places in the part."""
        parts = sorted(store.parts, key=lambda part: (part.generation, part.path.name))
        owners, places = np.full(len(skipped), -1, np.int32), np.zeros(len(skipped), np.int32)
        for number, part in enumerate(parts):  # of parts that hold one utterance, the last one counts
            indices = self.index.find(list(part.utterance_ids), part.hashes)
            held = np.flatnonzero(indices >= 0)
            owners[indices[held]], places[indices[held]] = number, held
        owners[skipped] = -1
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(parts) + 1))
        for number, part in enumerate(parts):
            indices = order[starts[number] : starts[number + 1]]
            if len(indices):
                yield part, indices.tolist(), places[indices].tolist()

    def _unequal_of(
        self, columns: Columns, indices: list[int], places: list[int], newer: Mapping[SourceKey, str], found: Compared
    ) -> Iterator[tuple[int, StoredInput]]:
        """Do the work of `_unequal` for one part; `newer` are the sources of sources.jsonl."""
        hashes, is_text = columns.input_sha256, isinstance(self._current, TranscriptHashes)
        strings = list(hashes if is_text else columns.source)  # one by one would take five times as long
        stored = [strings[place] for place in places]
        if newer and not is_text:
            triples = zip(indices, places, stored, strict=True)
            stored = [newer.get((id_at(self.utterances, i), hashes[place]), source) for i, place, source in triples]
        current: Sequence[str | None] = [None] * len(indices) if self._current is None else self._current.of(indices)
        for i, place, before, now in zip(indices, places, stored, current, strict=True):
            if before == now:
                found.is_stored[i] = True
            else:
                yield i, StoredInput(hashes[place], columns.source[place] if is_text else before)

    def _record(self, i: int, freshness: Freshness | AudioError, found: Compared) -> None:
        """Record the comparison of one utterance."""
        utterance = self.utterances[i]
        if isinstance(freshness, AudioError):
            found.unusable[i] = Rejection(utterance, freshness.reason, str(freshness))
            return
        if freshness == "moved":
            found.moved[i] = self.comparison.source(utterance).json_text()
        (found.is_changed if freshness == "changed" else found.is_stored)[i] = True
