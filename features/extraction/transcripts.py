"""Transcripts: the lengths, hashes and token counts of the transcripts of utterances."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from features.cpu_threads import usable_cores
from features.encoders.base import Encoder
from features.encoders.transcript_tokens import FACTS, TranscriptCounter
from features.extraction.audio_files import nothing
from features.extraction.known_transcripts import KnownTranscripts, distinct, short_hashes
from features.extraction.settings import ExtractSettings
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_transcripts, transcript_reader
from features.process_map import MAX_PROCESSES, map_in_processes
from features.progress import Reporter
from features.signals import check_interrupted
from features.text.normalize import TokenCounts, normalize_text, text_digest

AT_ONCE = 1024
"""Number of transcripts between two updates of the progress bar."""
MIN_NEW = 20_000
"""Number of new transcripts from which processes save more time than they take to start."""


class TranscriptHashes:
    """The hashes of N normalized transcripts, which tell whether stored features are of the same ones."""

    def __init__(self, digests: Array) -> None:
        self.digests = digests
        """(N, 32) uint8: SHA-256."""

    def of(self, indices: Sequence[int]) -> list[str]:
        """Return `text_sha256` of several transcripts."""
        text = self.digests[np.asarray(indices, np.int64)].tobytes().hex()
        return [text[first : first + 64] for first in range(0, len(text), 64)]


class Transcripts:
    """Lengths, hashes and counts of N transcripts."""

    def __init__(self, count: int, has_counts: bool) -> None:
        self.is_empty = np.zeros(count, bool)
        """Transcripts that are missing or empty, (N,)."""
        self.hashes = TranscriptHashes(np.zeros((count, 32), np.uint8))
        self.facts = np.zeros((count, len(FACTS)), np.int32)
        """(N, 7), see `FACTS`."""
        self.keep: Callable[[], object] = nothing
        """Writes new facts into their file, if that waits for the features folder."""
        self._has_counts = has_counts

    @property
    def lengths(self) -> Array:
        """Tokens that the encoder reads, (N,) int64."""
        return self.facts[:, 0].astype(np.int64)

    @property
    def num_truncated(self) -> int:
        """Number of transcripts that are longer than the encoder's maximum length."""
        return int(self.facts[:, 1].sum())

    @property
    def token_counts(self) -> TokenCounts | None:
        """Counts of all tokens; None for an encoder without a subword tokenizer."""
        return TokenCounts(*self.facts[:, 2:].sum(axis=0, dtype=np.int64).tolist()) if self._has_counts else None


def measure_transcripts(
    utterances: Sequence[Utterance], encoder: Encoder, settings: ExtractSettings, reporter: Reporter
) -> Transcripts:
    """Measure the transcripts of utterances.

    Those that are known from an earlier time are not tokenized, and equal ones are tokenized once.
    Many new ones are tokenized by several processes.
    """
    known = KnownTranscripts(settings.features_dir, encoder.tokenization)
    measured = Transcripts(len(utterances), encoder.count_tokens(()) is not None)
    try:
        with closing(reporter.progress(len(utterances), 0, "transcripts")) as bar:
            new = _find_known(utterances, known, measured, bar)
            _count_new(utterances, new, encoder, settings.workers, known, measured, bar)
    finally:
        if known.has_new and not settings.plan_only:
            if settings.features_dir.is_dir():
                known.save(reporter)
            else:
                measured.keep = partial(known.save, reporter)
    return measured


def _find_known(utterances: Sequence[Utterance], known: KnownTranscripts, measured: Transcripts, bar: Any) -> Array:
    """Hash all transcripts and take the facts of the known ones; return the indices of the others."""
    raw, is_new = iterate_transcripts(utterances), np.ones(len(utterances), bool)
    for first in range(0, len(utterances), AT_ONCE):
        check_interrupted()
        texts = list(map(normalize_text, islice(raw, AT_ONCE)))
        digests, chosen = _digests(texts), slice(first, first + len(texts))
        facts, is_known = known.find(digests)
        measured.hashes.digests[chosen], measured.facts[chosen], is_new[chosen] = digests, facts, ~is_known
        measured.is_empty[chosen] = [not text for text in texts]
        bar.update(int(is_known.sum()))
    return np.flatnonzero(is_new)


def _digests(texts: Iterable[str]) -> Array:
    """Return the digests of `text_sha256` of normalized transcripts, (N, 32) uint8."""
    return np.frombuffer(b"".join(map(text_digest, texts)), np.uint8).reshape(-1, 32)


def _count_new(
    utterances: Sequence[Utterance],
    new: Array,
    encoder: Encoder,
    workers: int | None,
    known: KnownTranscripts,
    measured: Transcripts,
    bar: Any,
) -> None:
    """Find the facts of the transcripts at the indices `new`, of equal ones once."""
    places, numbers = distinct(short_hashes(measured.hashes.digests[new]))
    chosen, repeats = new[places], np.bincount(numbers)
    facts, transcript, end = np.zeros((len(chosen), len(FACTS)), np.int32), transcript_reader(utterances), 0
    parts = (chosen[first : first + AT_ONCE].tolist() for first in range(0, len(chosen), AT_ONCE))
    blocks = (list(map(normalize_text, map(transcript, part))) for part in parts)
    with closing(_count(encoder, blocks, len(chosen), workers)) as counted:
        for found in counted:
            check_interrupted()
            block = slice(end, end + len(found))
            facts[block], end = found, block.stop
            known.add(measured.hashes.digests[chosen[block]], found)
            bar.update(int(repeats[block].sum()))
    measured.facts[new] = facts[numbers]


def _count(
    encoder: Encoder, blocks: Iterator[list[str]], total: int, workers: int | None
) -> Generator[Array, None, None]:
    """Yield the facts (N, 7) of blocks of normalized transcripts, of which there are `total`."""
    counter, processes = encoder.transcript_counter, min(usable_cores() if workers is None else workers, MAX_PROCESSES)
    if counter is None:
        for block in blocks:
            yield np.array([_facts(encoder, text) for text in block], np.int32)
    elif total < MIN_NEW or processes < 2 or not counter.can_be_copied():
        for block in blocks:
            yield counter(block)[0]
    else:
        yield from _count_in_processes(counter, blocks, processes)


def _count_in_processes(
    counter: TranscriptCounter, blocks: Iterator[list[str]], processes: int
) -> Generator[Array, None, None]:
    """Yield the facts of blocks of transcripts, and remember their tokens for the encoder."""
    sent: deque[list[str]] = deque()

    def send() -> Iterator[list[str]]:
        for block in blocks:
            sent.append(block)
            yield block

    with closing(map_in_processes(counter, send(), processes)) as results:
        for facts, tokens in results:
            for text, ids in zip(sent.popleft(), tokens, strict=True):
                counter.source.remember(text, ids)
            yield facts


def _facts(encoder: Encoder, text: str) -> tuple[int, ...]:
    """Return the facts of a normalized transcript, in the order of `FACTS`."""
    counts = encoder.count_tokens([text]) or TokenCounts(0, 0, 0, 0, 0)
    return encoder.num_tokens(text), encoder.is_truncated(text), *counts
