"""KnownTranscripts: what is known about transcripts, so that no tokenizer reads them twice.

Each text encoder has a file for its tokenization in the features folder, named by a hash of it. The
first line is JSON with the tokenization and a hash of the rest; a file that was damaged or edited is
not used. The rest are records, sorted by the hash of their transcript.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.atomic_files import write_atomically
from features.canonical import canonical_json
from features.encoders.transcript_tokens import FACTS
from features.manifests.columns import Array
from features.progress import Reporter
from features.regular_files import read_regular

SCHEMA = 1
RECORD = np.dtype([("hash", "<u8", 2), ("facts", "<i4", len(FACTS))])
"""The first 16 bytes of the SHA-256 of a normalized transcript, and its facts."""


class KnownTranscripts:
    """The facts of transcripts, from the file of a tokenization in a features folder.

    `tokenization` holds everything that decides the facts; None: nothing is kept.
    """

    def __init__(self, features_dir: Path, tokenization: Mapping[str, Any] | None) -> None:
        self._tokenization = tokenization
        name = hashlib.sha256(canonical_json(dict(tokenization or {})).encode()).hexdigest()[:16]
        self.path = features_dir / f"transcripts-{name}.facts"
        self._records = np.empty(0, RECORD) if tokenization is None else self._read()
        self._first = self._records["hash"][:, 0].copy()  # contiguous, for the search
        self._new: list[Array] = []

    def find(self, digests: Array) -> tuple[Array, Array]:
        """Return the facts (N, 7) int32 of transcripts, and a mask (N,) of those that are known.

        `digests` (N, 32) uint8 are the SHA-256 of the normalized transcripts.
        """
        hashes = short_hashes(digests)
        facts = np.zeros((len(hashes), len(FACTS)), np.int32)
        if not len(self._records):
            return facts, np.zeros(len(hashes), bool)
        places = np.minimum(np.searchsorted(self._first, hashes[:, 0]), len(self._first) - 1)
        found = self._records[places]
        is_known = (found["hash"] == hashes).all(axis=1)
        facts[is_known] = found["facts"][is_known]
        return facts, is_known

    def add(self, digests: Array, facts: Array) -> None:
        """Add the facts (N, 7) of transcripts that are not known, for `save`."""
        if self._tokenization is None or not len(digests):
            return
        added = np.empty(len(digests), RECORD)
        added["hash"], added["facts"] = short_hashes(digests), facts
        self._new.append(added)

    @property
    def has_new(self) -> bool:
        """True if there are transcripts to save."""
        return bool(self._new)

    def save(self, reporter: Reporter) -> None:
        """Write all transcripts, those of the file too; the next command reads them again if that fails."""
        # the file is read again: another command may have added to it meanwhile
        records = np.concatenate([self._records, self._read(), *self._new])
        body = records[distinct(records["hash"])[0]].tobytes()  # in the order of `find`
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, self._head(body).encode() + b"\n" + body)
        except OSError as error:
            reporter.say(f"the lengths of the transcripts are not kept, the next command reads them again: {error}")

    def _read(self) -> Array:
        """Return the records of the file; none if it does not exist or is not valid."""
        nothing = np.empty(0, RECORD)
        try:
            first, _, body = read_regular(self.path).partition(b"\n")
            is_valid = canonical_json(json.loads(first)) == self._head(body)
            return np.frombuffer(body, RECORD) if is_valid else nothing
        except (OSError, ValueError, TypeError, RecursionError):
            return nothing

    def _head(self, body: bytes) -> str:
        """Return the first line of a file with these records."""
        digest = hashlib.sha256(body).hexdigest()
        return canonical_json({"schema": SCHEMA, "tokenization": self._tokenization, "facts": FACTS, "sha256": digest})


def distinct(hashes: Array) -> tuple[Array, Array]:
    """Return the places of the distinct hashes (N, 2) uint64, sorted by hash, and for each hash its number there."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    numbers = np.empty(len(hashes), np.int64)
    numbers[order] = np.cumsum(is_first) - 1
    return order[is_first], numbers


def short_hashes(digests: Array) -> Array:
    """Return the first 16 bytes of digests (N, 32) uint8 as integers (N, 2) uint64."""
    return np.ascontiguousarray(digests[:, :16]).view("<u8")
