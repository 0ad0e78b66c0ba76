"""Summary of a store: number and lengths of its utterances, size on disk, and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.store.faults import VanishedPartError
from features.store.part import Part
from features.store.part_files import format_of
from features.store.reader import FeatureStore


@dataclass(frozen=True)
class Origin:
    """Versions and device that computed some parts, and the numbers of parts and utterances."""

    made_with: Mapping[str, str]
    parts: int
    utterances: int

    def as_json(self) -> dict[str, str | int]:
        """Return a JSON object."""
        return {**self.made_with, "parts": self.parts, "utterances": self.utterances}


def describe(store: FeatureStore) -> dict[str, Any]:
    """Return counts, bytes and lengths of the committed utterances, as a JSON object."""
    inputs = store.inputs(store.places())
    lengths = inputs.lengths
    parts, num_bytes = store.parts, store.num_bytes
    counts: dict[str, Any] = {
        "utterances": len(store),
        "rows": int(lengths.sum()),  # frames or tokens; the key is part of the JSON output
        "bytes": num_bytes,
        "parts": len(parts),
        "format": sorted({format_of(part.path) for part in parts}),
        "superseded": sum(map(len, parts)) - len(store),
        "made_with": [origin.as_json() for origin in origins(parts)],
    }
    if lengths.size:
        counts["lengths"] = {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "empty": int((lengths == 0).sum()),
        }
    if store.info.modality == "audio":
        num_samples = int(inputs.num_inputs.sum())
        hours = store.info.identity.duration_s(num_samples) / 3600
        counts["hours"] = hours
        counts["gb_per_hour"] = num_bytes / 1e9 / hours if num_samples else None
    return counts


def origins(parts: Iterable[Part]) -> list[Origin]:
    """Return the different versions and devices that computed parts."""
    num_parts: dict[str, int] = {}
    num_utterances: dict[str, int] = {}
    for part in parts:
        try:
            made_with = json.dumps(part.made_with, sort_keys=True)
        except VanishedPartError:
            continue
        num_parts[made_with] = num_parts.get(made_with, 0) + 1
        num_utterances[made_with] = num_utterances.get(made_with, 0) + len(part)
    return [Origin(json.loads(each), num_parts[each], num_utterances[each]) for each in sorted(num_parts)]
