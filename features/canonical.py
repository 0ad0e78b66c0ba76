"""Canonical JSON (equal values give equal text), and the differences between two documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def differing_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two nested mappings differ, with dotted names and both values."""
    flat_first, flat_second = _flatten(first), _flatten(second)
    differing = {}
    for key in sorted(set(flat_first) | set(flat_second)):
        pair = flat_first.get(key), flat_second.get(key)
        if pair[0] != pair[1]:
            differing[key] = pair
    return differing


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names, such as `config.mode`."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
