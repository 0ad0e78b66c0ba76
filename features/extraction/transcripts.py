"""Transcripts: the lengths, hashes and token counts of the transcripts of utterances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np

from features.encoders.base import Encoder
from features.extraction.known_transcripts import FACTS, KnownTranscripts
from features.extraction.settings import ExtractSettings
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.manifests.utterances import iterate_transcripts
from features.progress import Reporter
from features.signals import check_interrupted
from features.text.normalize import TokenCounts, normalize_text

AT_ONCE = 4096
"""Number of transcripts between two updates of the progress bar."""


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
        self.lengths = np.zeros(count, np.int64)
        """Tokens that the encoder reads, (N,)."""
        self.is_empty = np.zeros(count, bool)
        """Transcripts that are missing or empty, (N,)."""
        self.hashes = TranscriptHashes(np.zeros((count, 32), np.uint8))
        self.keep: Callable[[], object] = lambda: None
        """Writes new facts into their file, if that waits for the features folder."""
        self._has_counts = has_counts
        self._sums = np.zeros(len(FACTS), np.int64)

    def add(self, first: int, texts: Sequence[str], digests: Array, facts: Array) -> None:
        """Add normalized transcripts from an index on, with their facts (see `FACTS`)."""
        chosen = slice(first, first + len(texts))
        self.lengths[chosen], self.hashes.digests[chosen] = facts[:, 0], digests
        self.is_empty[chosen] = [not text for text in texts]
        self._sums += facts.sum(axis=0, dtype=np.int64)

    @property
    def num_truncated(self) -> int:
        """Number of transcripts that are longer than the encoder's maximum length."""
        return int(self._sums[1])

    @property
    def token_counts(self) -> TokenCounts | None:
        """Counts of all tokens; None for an encoder without a subword tokenizer."""
        return TokenCounts(*self._sums[2:].tolist()) if self._has_counts else None


def measure_transcripts(
    utterances: Sequence[Utterance], encoder: Encoder, settings: ExtractSettings, reporter: Reporter
) -> Transcripts:
    """Measure the transcripts of utterances; those that are known from an earlier time are not tokenized."""
    known = KnownTranscripts(settings.features_dir, encoder.tokenization)
    measured = Transcripts(len(utterances), encoder.count_tokens(()) is not None)
    raw = iterate_transcripts(utterances)
    try:
        with closing(reporter.progress(len(utterances), 0, "transcripts")) as bar:
            for first in range(0, len(utterances), AT_ONCE):
                check_interrupted()
                texts = list(map(normalize_text, islice(raw, AT_ONCE)))
                digests = _digests(texts)
                facts, is_known = known.find(digests)
                new = np.flatnonzero(~is_known)
                for i in new.tolist():
                    facts[i] = _facts(encoder, texts[i])
                known.add(digests[new], facts[new])
                measured.add(first, texts, digests, facts)
                bar.update(len(texts))
    finally:
        if known.has_new and not settings.plan_only:
            if settings.features_dir.is_dir():
                known.save(reporter)
            else:
                measured.keep = partial(known.save, reporter)
    return measured


def _digests(texts: Iterable[str]) -> Array:
    """Return the digests of `text_sha256` of normalized transcripts, (N, 32) uint8."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _facts(encoder: Encoder, text: str) -> tuple[int, ...]:
    """Return the facts of a normalized transcript, in the order of `FACTS`."""
    counts = encoder.count_tokens([text]) or TokenCounts(0, 0, 0, 0, 0)
    return encoder.num_tokens(text), encoder.is_truncated(text), *counts
