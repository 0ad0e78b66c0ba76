"""The stores of a features folder, and which of them a selector means."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from features.canonical import differing_fields
from features.command_lines import DataPlace, extract_command
from features.command_lines import features_folder as features_folder
from features.encoders import ENCODERS
from features.encoders.hub import is_path
from features.encoders.model_source import fingerprint, local_fingerprint
from features.encoders.selector import MEANS, Selector
from features.errors import InputError, UsageError
from features.store.identity import STORE_FILE, StoreInfo, read_store_info
from features.store.models import KEPT_ENCODER, describe_models, recorded_models, recorded_selector
from features.tables import aligned


def list_stores(features_dir: Path, modality: str | None = None, *, means: bool = False) -> list[StoreInfo]:
    """Return the stores of a features folder, in order of path; those of layer means, for no head, if `means`.

    Stores whose store.json is damaged are left out; `damaged_stores` tells them.
    """
    infos = [info for info in _read_all(features_dir, modality) if isinstance(info, StoreInfo)]
    return [info for info in infos if means or info.identity["layer"] != MEANS]


def damaged_stores(features_dir: Path, modality: str | None = None) -> list[InputError]:
    """Return what is wrong with each store of a features folder whose store.json cannot be used."""
    return [error for error in _read_all(features_dir, modality) if isinstance(error, InputError)]


def _read_all(features_dir: Path, modality: str | None) -> list[StoreInfo | InputError]:
    modalities = [modality] if modality else sorted(ENCODERS)
    files = [file for kind in modalities for file in (features_dir / kind).glob(f"*/{STORE_FILE}")]
    found: list[StoreInfo | InputError] = []
    for path in sorted(file.parent for file in files if not file.parent.name.startswith(".")):  # being removed
        try:
            found.append(read_store_info(path))
        except InputError as error:
            if path.exists():
                found.append(error)
    return found


@dataclass(frozen=True)
class StoreQuery:
    """What a selector asks of a store; the model that it names is looked at once for all stores."""

    selector: Selector

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the folder or file that the selector names; None if it names none that exists."""
        return local_fingerprint(self.selector) if self.selector.model is not None else None

    def differences(self, info: StoreInfo) -> list[str]:
        """Return in what a store is not the one meant; what the selector leaves open does not count."""
        layers = tuple(layer for layer in self.selector.layers or () if layer != "all")
        found = [] if info.encoder == self.selector.name else [f"encoder {info.encoder}, wanted {self.selector.name}"]
        if not self._has_model(info):
            found.append(f"model {describe_models(info)}, wanted {self.selector.model}")
        if layers and info.identity["layer"] not in layers:
            found.append(f"layer {info.identity['layer']}, wanted {', '.join(map(str, layers))}")
        return found

    def _has_model(self, info: StoreInfo) -> bool:
        """Tell whether a store came from the model: from equal files, else by the exact hub id or path."""
        model = self.selector.model
        if model is None:
            return True
        recorded = recorded_models(info)
        if recorded is None:
            return bool(info.provenance.get("model") == model)
        if self.fingerprint is None:
            return any(source.is_named(model) for source in recorded)
        kept = info.path / KEPT_ENCODER  # random weights have no other folder
        if kept.is_dir() and fingerprint(kept) == self.fingerprint:
            return True
        return any(source.fingerprint == self.fingerprint for source in recorded)


def matching_stores(features_dir: Path, selector: Selector) -> list[StoreInfo]:
    """Return the stores that a selector can mean."""
    query = StoreQuery(selector)
    return _bare_first([i for i in list_stores(features_dir, selector.modality) if not query.differences(i)], selector)


def _bare_first(found: list[StoreInfo], selector: Selector | None) -> list[StoreInfo]:
    """Return the stores of what a bare name means in `mervn extract`, if there are any; else all.

    That is the encoder's default model, or random weights where it has none.
    """
    if selector is None or selector.model is not None:
        return found
    default = selector.spec.model
    if default is None:
        return [info for info in found if recorded_selector(info).model is None] or found
    query = StoreQuery(replace(selector, model=default))
    return [info for info in found if not query.differences(info)] or found


def select_store(place: DataPlace, modality: str, selector: Selector | None, path: Path | None) -> StoreInfo:
    """Return the one store meant: `path` if given, else the only one that matches.

    InputError gives the `mervn extract` to run if there is none. UsageError lists them if there are several, and if
    `path` is not a store of the selector.
    """
    query = StoreQuery(selector) if selector is not None else None
    if path is not None:
        return _given_store(read_store_info(path), modality, query)
    stores = list_stores(place.features_dir, modality)
    found = _bare_first([info for info in stores if query is None or not query.differences(info)], selector)
    if len(found) == 1:
        _warn_unrecorded(found[0], selector)
        return found[0]
    if found:
        raise UsageError(
            f"several {modality} stores match {selector or 'no selector'} in {place.features_dir}; "
            f"choose one by adding its option:\n{_table(found)}"
        )
    raise not_extracted(place, modality, selector)


def _given_store(info: StoreInfo, modality: str, query: StoreQuery | None) -> StoreInfo:
    if info.modality != modality:
        raise UsageError(f"--{modality}-store must be a store of {modality}, found {info.modality} in {info.path}")
    differences = query.differences(info) if query is not None else []
    if query is not None and differences:
        raise UsageError(
            f"--{modality}-store {info.path} is not a store of {query.selector}, which --{modality}-encoder names: "
            f"{'; '.join(differences)}. Leave one of the two out"
        )
    return info


def not_extracted(place: DataPlace, modality: str, selector: Selector | None) -> InputError:
    """Return the error of a selector that no store matches: it names the nearest store, and the command to run."""
    damaged = [f"not considered: {error}" for error in damaged_stores(place.features_dir, modality)]
    if selector is None:
        lines = [
            f"there is no {modality} store in {place.features_dir}",
            *damaged,
            f"extract one first:\n  {extract_command(place, Selector(modality, 'ENCODER'))}",
            f"where ENCODER is one of {', '.join(sorted(ENCODERS[modality]))}",
        ]
        return InputError("\n".join(lines))
    query, stores = StoreQuery(selector), list_stores(place.features_dir, modality)
    lines = [f"{selector} is not extracted yet: there is no {modality} store of it in {place.features_dir}"]
    if stores:
        nearest = min(stores, key=lambda info: len(query.differences(info)))
        lines.append(f"the nearest is {nearest.path} with {', '.join(query.differences(nearest))}")
    lines += [_unrecorded(info) for info in stores if info.encoder == selector.name and recorded_models(info) is None]
    return InputError("\n".join([*lines, *damaged, *_how_to_extract(place, selector, query)]))


def _how_to_extract(place: DataPlace, selector: Selector, query: StoreQuery) -> list[str]:
    if selector.model is not None and query.fingerprint is None and is_path(selector.model):
        return [f"there is no folder {selector.model}: give the model's folder, or the hub id"]
    if selector.model is None and selector.spec.model is None and not selector.spec.makes_weights:
        command = extract_command(place, replace(selector, model="MODEL"))
        return ["MODEL is the folder of a checkpoint, or a hub id", f"extract it first:\n  {command}"]
    return [f"extract it first:\n  {extract_command(place, selector)}"]


def _warn_unrecorded(info: StoreInfo, selector: Selector | None) -> None:
    if selector is not None and selector.model is not None and recorded_models(info) is None:
        warnings.warn(_unrecorded(info), stacklevel=3)


def _unrecorded(info: StoreInfo) -> str:
    name = f"{info.encoder}={info.provenance.get('model')}"
    return (
        f"{info.path} does not record the files of its model: it is found as {name} alone, whatever that folder holds "
        "now; the same mervn extract again records them"
    )


def _table(stores: Sequence[StoreInfo]) -> str:
    """List stores as `mervn store list` does, each with the option that selects it; then how they differ."""
    from features.store.listing import COLUMNS, summarize

    flags = [recorded_selector(info).flag for info in stores]
    rows = []
    for info, flag in zip(stores, flags, strict=True):
        option = flag if flags.count(flag) == 1 else f"--{info.modality}-store {info.path}"
        rows.append((option, *summarize(info).cells))
    header, *lines = aligned(("option", *COLUMNS), rows)
    listed = [f"  {header}"]
    for info, line in zip(stores, lines, strict=True):
        listed.append(f"  {line}")
        differing = differing_fields(stores[0].identity, info.identity)
        fields = ", ".join(f"{key}={_short(pair[1])} (first: {_short(pair[0])})" for key, pair in differing.items())
        listed += [f"    {fields}"] if fields else []
    return "\n".join(listed)


def _short(value: object) -> str:
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 40 else text[:12] + "..."
