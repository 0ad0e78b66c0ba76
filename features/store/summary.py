"""Summary of a store: number and lengths of its utterances, size on disk, and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from features.store.faults import VanishedPartError
from features.store.part import Part, format_of
from features.store.reader import FeatureStore


def describe(store: FeatureStore) -> dict[str, Any]:
    """Return counts, bytes and lengths of the committed utterances, as a JSON object."""
    lengths = np.array(list(map(store.num_frames, store)), np.int64)  # (N,)
    parts, num_bytes = store.parts, store.num_bytes
    counts: dict[str, Any] = {
        "utterances": len(store),
        "rows": int(lengths.sum()),  # frames or tokens; the key is part of the JSON output
        "bytes": num_bytes,
        "parts": len(parts),
        "format": sorted({format_of(part.path) for part in parts}),
        "superseded": sum(map(len, parts)) - len(store),
        "made_with": origins(parts),
    }
    if lengths.size:
        counts["lengths"] = {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "empty": int((lengths == 0).sum()),
        }
    if store.info.modality == "audio":
        num_samples = sum(store.utterance_info(utterance_id).num_inputs for utterance_id in store)
        hours = store.info.identity.duration_s(num_samples) / 3600
        counts["hours"] = hours
        counts["gb_per_hour"] = num_bytes / 1e9 / hours if num_samples else None
    return counts


def origins(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the different versions and devices that computed parts.

    Each entry is the `made_with` of some parts, with the number of these parts and of their
    utterances.
    """
    num_parts: dict[str, int] = {}
    num_utterances: dict[str, int] = {}
    for part in parts:
        try:
            made_with = json.dumps(part.made_with, sort_keys=True)
        except VanishedPartError:
            continue
        num_parts[made_with] = num_parts.get(made_with, 0) + 1
        num_utterances[made_with] = num_utterances.get(made_with, 0) + len(part)
    found = []
    for made_with in sorted(num_parts):
        counts = {"parts": num_parts[made_with], "utterances": num_utterances[made_with]}
        found.append(json.loads(made_with) | counts)
    return found
