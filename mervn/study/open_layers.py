"""Names the default layer of an encoder that a grid gives with and without a layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.encoders.base import resolve_layers
from features.encoders.finetuned import find_fine_tuning
from features.encoders.hub import cached_snapshot, is_path
from features.encoders.selector import Layer, Selector, parse_selectors
from features.errors import UsageError
from features.store.index import matching_stores
from mervn.study.grid import Grid

ENCODER_OPTIONS = {"audio_encoder": "audio", "text_encoder": "text"}
DEPTH_KEYS = ("encoder_layers", "num_hidden_layers")
"""Keys of config.json with the number of layers of an encoder."""


def name_layers(grid: Grid, features_dir: Path) -> Grid:
    """Return a grid in which `whisper` beside `whisper@4` has its default layer, such as `whisper@8`.

    The name alone would mean the only store of the encoder, and there will be one for each layer.
    A selector whose default layer is unknown stays as it is: see `default_layer`.
    """
    for option, modality in ENCODER_OPTIONS.items():
        selectors = list(_selectors(grid, option, modality))
        with_layers = {replace(selector, layers=None) for selector in selectors if selector.layers}
        layers: dict[Selector, Layer] = {}
        for selector in selectors:
            if selector in with_layers and selector not in layers:
                layer = default_layer(selector, features_dir)
                if layer is not None:
                    layers[selector] = layer
        if layers:
            grid = _rewritten(grid, option, modality, layers)
    return grid


def default_layer(selector: Selector, features_dir: Path) -> Layer | None:
    """Return the layer that an encoder stores by default.

    Of an encoder with a middle layer, it follows from the number of layers: of one of its stores,
    or of config.json if the checkpoint is on this machine. None if that is unknown.
    """
    if selector.is_imported or selector.is_custom:
        return None
    if selector.spec.depth is None:
        return "last"
    record = find_fine_tuning(selector)
    if record is not None:
        chosen = record.resolve_layers(selector)
        return chosen[0] if len(chosen) == 1 else None
    count = _num_layers(selector, features_dir)
    return None if count is None else resolve_layers(selector, count)[0]


def _num_layers(selector: Selector, features_dir: Path) -> int | None:
    """Return the number of layers of an encoder, without loading it."""
    for info in matching_stores(features_dir, selector):
        return int(info.provenance["num_layers"])
    model = str(selector.model or selector.spec.model)
    folder: Path | None = Path(model).expanduser()
    if not Path(model).expanduser().is_dir():
        folder = None if is_path(model) else cached_snapshot(model)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        counts = [config[key] for key in DEPTH_KEYS if isinstance(config.get(key), int)]
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # the extraction reports the fault
    return counts[0] if counts else None


def _selectors(grid: Grid, option: str, modality: str) -> Iterator[Selector]:
    """Yield the encoders that a grid names; invalid ones are reported when its rows are made."""
    values = [table[option] for table in (grid.base, grid.reference) if option in table]
    for axes in (grid.rows, grid.tune):
        values += axes.get(option, ())
    for value in values:
        yield from _parsed(value, modality)


def _parsed(value: Any, modality: str) -> list[Selector]:
    try:
        return parse_selectors(value, modality, imported=True) if isinstance(value, str) else []
    except UsageError:
        return []


def _rewritten(grid: Grid, option: str, modality: str, layers: Mapping[Selector, Layer]) -> Grid:
    """Return the grid with the layers of these encoders in every value of an option."""

    def named(value: Any) -> Any:
        parts = _parsed(value, modality)
        if not any(part in layers for part in parts):
            return value
        return "+".join(str(replace(part, layers=(layers[part],)) if part in layers else part) for part in parts)

    def in_table(table: Mapping[str, Any]) -> dict[str, Any]:
        return {**table, option: named(table[option])} if option in table else dict(table)

    def in_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        return {**axes, option: list(map(named, axes[option]))} if option in axes else dict(axes)

    return replace(
        grid, base=in_table(grid.base), reference=in_table(grid.reference), rows=in_axes(grid.rows),
        tune=in_axes(grid.tune),
    )  # fmt: skip
