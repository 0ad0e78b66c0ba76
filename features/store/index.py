"""Index of a features folder: lists its stores and finds the store of a selector."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from features.canonical import differing_fields
from features.command_lines import DataPlace, extract_command, import_command
from features.command_lines import features_folder as features_folder
from features.custom_code import CustomModule, read_module
from features.encoders import ENCODERS
from features.encoders.config_fields import CODE
from features.encoders.hub import is_path
from features.encoders.model_source import fingerprint, local_fingerprint
from features.encoders.selector import MEANS, Selector, parse_selectors, unknown_name
from features.errors import InputError, UsageError
from features.store.identity import STORE_FILE, StoreInfo, read_store_info
from features.store.models import KEPT_ENCODER, describe_models, is_imported, recorded_models, recorded_selector
from features.tables import aligned


def list_stores(features_dir: Path, modality: str | None = None, *, means: bool = False) -> list[StoreInfo]:
    """Return the stores of a features folder, sorted by path.

    Stores of layer means are included only if `means`: heads cannot use them. Stores whose
    store.json is damaged are left out; `damaged_stores` returns their errors.
    """
    infos = []
    for info in _read_all(features_dir, modality):
        if isinstance(info, StoreInfo) and (means or info.identity.layer != MEANS):
            infos.append(info)
    return infos


def damaged_stores(features_dir: Path, modality: str | None = None) -> list[InputError]:
    """Return an error for each store of a features folder whose store.json cannot be used."""
    return [error for error in _read_all(features_dir, modality) if isinstance(error, InputError)]


def _read_all(features_dir: Path, modality: str | None) -> list[StoreInfo | InputError]:
    """Return each store of a folder, or the error if its store.json cannot be used."""
    modalities = [modality] if modality else sorted(ENCODERS)
    paths: set[Path] = set()
    for kind in modalities:
        paths.update(file.parent for file in (features_dir / kind).glob(f"*/{STORE_FILE}"))
    found: list[StoreInfo | InputError] = []
    for path in sorted(paths):
        if path.name.startswith("."):  # being removed
            continue
        try:
            found.append(read_store_info(path))
        except InputError as error:
            if path.exists():
                found.append(error)
    return found


@dataclass(frozen=True)
class StoreQuery:
    """Compares stores with a selector.

    The fingerprint of the selector's model is computed once for all stores.
    """

    selector: Selector

    @cached_property
    def fingerprint(self) -> str | None:
        """Fingerprint of the selector's model folder or file; None if no such path exists."""
        return local_fingerprint(self.selector) if self.selector.model is not None else None

    @cached_property
    def code(self) -> CustomModule | None:
        """The file of a custom encoder, which is read and not executed; None for any other."""
        return read_module(self.selector.name) if self.selector.is_custom else None

    def differences(self, info: StoreInfo) -> list[str]:
        """Return the differences between a store and the selector.

        Parts that the selector leaves open do not count.
        """
        found = []
        name = f"{self.code.path.name}:{self.code.name}" if self.code is not None else self.selector.name
        if info.encoder != name:
            found.append(f"encoder {info.encoder}, wanted {name}")
        elif self.code is not None and info.identity.config.get(CODE) != self.code.sha256:
            found.append(f"another content of {self.code.path.name}, which was edited since")
        if not self._has_model(info):
            found.append(f"model {describe_models(info)}, wanted {self.selector.model}")
        layers = self.selector.layers
        if layers and layers != ("all",) and info.identity.layer not in layers:
            found.append(f"layer {info.identity.layer}, wanted {', '.join(map(str, layers))}")
        return found

    def _has_model(self, info: StoreInfo) -> bool:
        """Return whether a store has the selector's model: same files, else same hub id or path."""
        model = self.selector.model
        if model is None:
            return True
        recorded = recorded_models(info)
        if recorded is None:
            return bool(info.provenance.get("model") == model)
        if self.fingerprint is None:
            return any(source.is_named(model) for source in recorded)
        # random weights exist only as a copy in the store
        kept = info.path / KEPT_ENCODER
        if kept.is_dir() and fingerprint(kept) == self.fingerprint:
            return True
        return any(source.fingerprint == self.fingerprint for source in recorded)

    def matching(self, stores: Iterable[StoreInfo]) -> list[StoreInfo]:
        """Return the stores without differences."""
        return [info for info in stores if not self.differences(info)]


def matching_stores(features_dir: Path, selector: Selector) -> list[StoreInfo]:
    """Return the stores that match a selector."""
    found = StoreQuery(selector).matching(list_stores(features_dir, selector.modality))
    return _prefer_default_model(found, selector)


def _prefer_default_model(found: list[StoreInfo], selector: Selector | None) -> list[StoreInfo]:
    """For a selector without a model, prefer stores of the model that `mervn extract` would use.

    That is the encoder's default model, or random weights if it has none. If no store has it, all
    stores stay.
    """
    if selector is None or selector.model is not None:
        return found
    # `phobert` alone means its default checkpoint, even if stores of other checkpoints exist
    default = selector.spec.model
    if default is None:
        return [info for info in found if recorded_selector(info).model is None] or found
    return StoreQuery(replace(selector, model=default)).matching(found) or found


def select_store(place: DataPlace, modality: str, selector: Selector | None, path: Path | None) -> StoreInfo:
    """Return the store at `path` if given, else the only store that matches the selector.

    Raises InputError with the `mervn extract` command to run if no store matches. Raises UsageError
    if several match, or if `path` is not a store of the selector.
    """
    query = StoreQuery(selector) if selector is not None else None
    if path is not None:
        return _given_store(read_store_info(path), modality, query)
    stores = list_stores(place.features_dir, modality)
    found = _prefer_default_model(query.matching(stores) if query is not None else stores, selector)
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
    """Return a store that the user named; raises UsageError if it does not match the selector."""
    if info.modality != modality:
        raise UsageError(f"--{modality}-store must be a store of {modality}, found {info.modality} in {info.path}")
    differences = query.differences(info) if query is not None else []
    if query is not None and differences:
        raise UsageError(
            f"--{modality}-store {info.path} must be a store of "
            f"--{modality}-encoder {query.selector}, found {'; '.join(differences)}. "
            "Leave out one of the two options"
        )
    return info


def not_extracted(place: DataPlace, modality: str, selector: Selector | None) -> InputError:
    """Return the error if no store matches: the most similar store, and the command to run."""
    damaged = [f"ignored: {error}" for error in damaged_stores(place.features_dir, modality)]
    if selector is None:
        lines = [
            f"{place.features_dir} has no {modality} store",
            *damaged,
            f"extract one first:\n  {extract_command(place, Selector(modality, 'ENCODER'))}",
            f"where ENCODER is one of {', '.join(sorted(ENCODERS[modality]))}",
        ]
        return InputError("\n".join(lines))
    query, stores = StoreQuery(selector), list_stores(place.features_dir, modality)
    same_name = [info for info in stores if info.encoder == selector.name]
    if selector.is_imported and not same_name:
        return unknown_name(selector.name, modality, (info.encoder for info in stores if is_imported(info)))
    lines = [f"{selector} is not extracted yet: {place.features_dir} has no {modality} store of it"]
    if stores:
        nearest = min(stores, key=lambda info: len(query.differences(info)))
        differences = ", ".join(query.differences(nearest))
        lines.append(f"the most similar one is {nearest.path} with {differences}")
    for info in stores:
        if info.encoder == selector.name and recorded_models(info) is None:
            lines.append(_unrecorded(info))
    if selector.is_imported:
        command = import_command(place, same_name[0].provenance["import"])
        return InputError(
            "\n".join([*lines, *damaged, f"they are imported features; import others with:\n  {command}"])
        )
    return InputError("\n".join([*lines, *damaged, *_how_to_extract(place, selector, query)]))


def stored_selectors(text: str, modality: str, features_dir: Path) -> list[Selector]:
    """Parse selectors of stored features: of encoders, or of features that a user imported.

    Raises UsageError for a name that is neither an encoder nor imported into the folder.
    """
    selectors = parse_selectors(text, modality, imported=True)
    unknown = [selector for selector in selectors if selector.is_imported]
    imported = _imported_names(features_dir, modality) if unknown else set()
    for selector in unknown:
        if selector.name not in imported:
            raise unknown_name(selector.name, modality, imported)
    return selectors


def encoder_selectors(text: str, modality: str, features_dir: Path, why: str) -> list[Selector]:
    """Parse selectors of encoders that will run; see `parse_selectors`.

    The UsageError for a name that only imported features have tells that there is no encoder. `why`
    says what the command does with encoders.
    """
    try:
        return parse_selectors(text, modality)
    except UsageError:
        imported = _imported_names(features_dir, modality)
        for selector in parse_selectors(text, modality, imported=True) if imported else ():
            if selector.name in imported:
                raise UsageError(
                    f"--{modality}-encoder {selector.name} names features that were imported into {features_dir}, "
                    f"and {why}: they have no encoder. `mervn train-head`, `ablate` and `layers` use them"
                ) from None
        raise


def _imported_names(features_dir: Path, modality: str) -> set[str]:
    """Return the names of the imported features in a folder."""
    return {info.encoder for info in list_stores(features_dir, modality) if is_imported(info)}


def _how_to_extract(place: DataPlace, selector: Selector, query: StoreQuery) -> list[str]:
    """Return the lines of a message that say which command extracts a selector."""
    if selector.model is not None and query.fingerprint is None and is_path(selector.model):
        return [f"the folder {selector.model} does not exist: give the model's folder, or its hub id"]
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
        f"{info.path} does not record the files of its model, so only the name {name} "
        "identifies it, even if that folder has changed. "
        "Run the same mervn extract again to record them"
    )


def _table(stores: Sequence[StoreInfo]) -> str:
    """Return the table of `mervn store list` with an option that selects each store.

    Below each store are its differences from the first one.
    """
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
        differing = differing_fields(stores[0].identity.as_json(), info.identity.as_json())
        fields = []
        for key, (first, this) in differing.items():
            fields.append(f"{key}={_short(this)} (first: {_short(first)})")
        if fields:
            listed.append(f"    {', '.join(fields)}")
    return "\n".join(listed)


def _short(value: object) -> str:
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 40 else text[:12] + "..."
