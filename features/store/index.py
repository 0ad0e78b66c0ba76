"""The stores of a features folder, and which of them a selector means."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.encoders import ENCODERS
from features.encoders.selector import Selector, short_model_name
from features.errors import InputError
from features.store.identity import MEANS, STORE_FILE, StoreInfo, differing_fields, read_store_info


def features_folder(features_dir: Path | None, data: Path) -> Path:
    """Return the folder of the stores: the one given, else $MERVN_FEATURES, else <data>/stores."""
    return features_dir or Path(os.environ.get("MERVN_FEATURES") or data / "stores")


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


def differences(info: StoreInfo, selector: Selector) -> list[str]:
    """Return in what a store is not the one a selector means; what the selector does not say does not count.

    Models are compared by the last part of their hub id or folder: which weights they are, the identity says.
    """
    wanted: dict[str, object] = {"encoder": selector.name}
    if selector.model is not None:
        wanted["model"] = short_model_name(selector.model)
    if selector.layers is not None and len(selector.layers) == 1:
        wanted["layer"] = selector.layers[0]
    found = {"encoder": info.encoder, "model": info.provenance.get("model_name"), "layer": info.identity["layer"]}
    return [f"{key} {found[key]}, wanted {value}" for key, value in wanted.items() if found[key] != value]


def matching_stores(features_dir: Path, selector: Selector) -> list[StoreInfo]:
    """Return the stores that a selector can mean."""
    return [info for info in list_stores(features_dir, selector.modality) if not differences(info, selector)]


def select_store(
    features_dir: Path, modality: str, selector: Selector | None, path: Path | None, data: Path
) -> StoreInfo:
    """Return the one store meant: `path` if given, else the only one that matches.

    InputError says the extract line to run where there is none, and lists them where there are several.
    """
    if path is not None:
        return _checked(read_store_info(path), modality)
    stores = list_stores(features_dir, modality)
    found = [info for info in stores if selector is None or not differences(info, selector)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"several {modality} stores match {selector or 'no selector'} in {features_dir}; "
            f"choose one with --{modality}-encoder or --{modality}-store PATH:\n{_table(found)}"
        )
    wanted = selector or Selector(modality, "ENCODER")
    lines = [f"there is no {modality} store{f' of {selector}' if selector else ''} in {features_dir}"]
    if stores and selector is not None:
        nearest = min(stores, key=lambda info: len(differences(info, selector)))
        lines.append(f"the nearest is {nearest.path} with {', '.join(differences(nearest, selector))}")
    lines += [f"not considered: {error}" for error in damaged_stores(features_dir, modality)]
    lines.append(f"extract one first:\n  mervn extract{_data_flags(data, features_dir)} {wanted.flag}")
    if selector is None:
        lines.append(f"where ENCODER is one of {', '.join(sorted(ENCODERS[modality]))}")
    raise InputError("\n".join(lines))


def _checked(info: StoreInfo, modality: str) -> StoreInfo:
    if info.modality != modality:
        raise InputError(f"--{modality}-store must be a store of {modality}, found {info.modality} in {info.path}")
    return info


def _data_flags(data: Path, features_dir: Path) -> str:
    flags = "" if data == Path("data") else f" --data {data}"
    return flags + ("" if features_dir == data / "stores" else f" --features-dir {features_dir}")


def _table(stores: Sequence[StoreInfo]) -> str:
    """List stores with the fields in which they differ from the first."""
    lines = []
    for info in stores:
        differing = differing_fields(stores[0].identity, info.identity) if info is not stores[0] else {}
        fields = ", ".join(f"{key}={_short(pair[1])} (first: {_short(pair[0])})" for key, pair in differing.items())
        lines.append(f"  {info.path}" + (f": {fields}" if fields else ""))
    return "\n".join(lines)


def _short(value: object) -> str:
    text = str(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 40 else text[:12] + "..."
