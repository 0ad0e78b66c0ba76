"""Groups of utterances that must stay in one split: connected components over shared values.

Two utterances are connected if they share a speaker, a recording, the same samples or any other
chosen key, also through other utterances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.audio.segment import AudioError
from features.audit.corpus import text_keys
from features.errors import UsageError
from features.extraction.segment_hashes import SegmentHashes
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.text.normalize import normalize_text

Array = np.ndarray[Any, Any]
AUDIO, RECORDING, TRANSCRIPT = "audio", "recording", "transcript"
"""Keys that are computed: equal samples, the audio file, the words of the transcript."""


@dataclass(frozen=True)
class Groups:
    """Group of each utterance. Groups are numbered in the order of their smallest utterance id."""

    index: Array
    """(N,) int64: number of the group of each utterance."""
    names: list[str]
    """The smallest utterance id of each group."""
    unreadable: list[AudioError]
    """Audio that cannot be decoded, which connects nothing by its samples."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def largest(self) -> int:
        """The number of utterances in the largest group."""
        return int(np.bincount(self.index).max())


def find_groups(utterances: Sequence[Utterance], keys: Sequence[str], reporter: Reporter) -> Groups:
    """Return the connected components of utterances that share a value of one of the keys.

    A missing, null or empty value connects nothing. Raises UsageError if no utterance has a value
    of a key.
    """
    unreadable: list[AudioError] = []
    columns = []
    for key in keys:
        if key == AUDIO:
            columns.append(_audio_values(utterances, unreadable, reporter))
            continue
        values = [shared_value(utterance, key) for utterance in utterances]
        if all(value is None for value in values):
            raise UsageError(f"--group {key}: {_no_value(utterances, key)}")
        columns.append(values)
    component = connected_components(columns)
    first: dict[int, str] = {}
    for utterance, number in zip(utterances, component, strict=True):
        first[number] = min(utterance.utterance_id, first.get(number, utterance.utterance_id))
    names = sorted(first.values())  # by code point: no locale has an effect
    position = {name: i for i, name in enumerate(names)}
    return Groups(np.array([position[first[number]] for number in component], np.int64), names, unreadable)


def shared_value(utterance: Utterance, key: str) -> str | None:
    """Return an utterance's value of a key as text; None if it is missing, null or empty.

    Equal values have equal text: 1 and "1", and one name in two Unicode forms.
    """
    if key == RECORDING:
        return str(utterance.audio_path.resolve())
    if key == TRANSCRIPT:
        return text_keys([utterance.transcript or ""])[0] or None
    value = getattr(utterance, key) if key in ("speaker_id", "emotion") else utterance.extra.get(key)
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return normalize_text(text) or None


def require_values(utterances: Sequence[Utterance], key: str, option: str) -> None:
    """Raise UsageError if no utterance has a value of a key."""
    if all(shared_value(utterance, key) is None for utterance in utterances):
        raise UsageError(f"{option} {key}: {_no_value(utterances, key)}")


def _no_value(utterances: Sequence[Utterance], key: str) -> str:
    """Return the end of a message: no utterance has a value of the key, and the keys that exist."""
    known = {"speaker_id", RECORDING, AUDIO, TRANSCRIPT}
    for utterance in utterances:
        known.update(utterance.extra)
    return f"at least one utterance of {utterances[0].file} must have this key, found none; keys: " + ", ".join(
        sorted(known - {key})
    )


def _audio_values(
    utterances: Sequence[Utterance], unreadable: list[AudioError], reporter: Reporter
) -> list[str | None]:
    """Return the hash of each utterance's samples; None and an entry in `unreadable` without."""
    values: list[str | None] = []
    hashes = SegmentHashes().of((one, one) for one in utterances)
    with closing(reporter.progress(len(utterances), 0, what="comparing audio")) as bar, closing(hashes):
        for _, digest in hashes:
            if isinstance(digest, AudioError):
                unreadable.append(digest)
                digest = None
            values.append(digest)
            bar.update(1)
    return values


def connected_components(columns: Sequence[Sequence[str | None]]) -> list[int]:
    """Return the component (N) of each utterance: those that share a value of a column are connected.

    Each column has a value (N) per utterance; None connects nothing.
    """
    from scipy.sparse import coo_array, csgraph

    count = len(columns[0])
    nodes: dict[tuple[int, str], int] = {}
    edges: list[tuple[int, int]] = []
    for number, values in enumerate(columns):
        for i, value in enumerate(values):
            if value is not None:
                edges.append((i, nodes.setdefault((number, value), count + len(nodes))))
    ends = np.array(edges, np.int64).reshape(-1, 2)
    size = count + len(nodes)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    _, labels = csgraph.connected_components(graph, directed=False)
    found: list[int] = labels[:count].tolist()
    return found
