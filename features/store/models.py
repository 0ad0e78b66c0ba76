"""The models that a store was extracted with: part of its provenance, not of its identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from features.config import is_custom_module
from features.encoders import ENCODERS
from features.encoders.config_fields import CODE
from features.encoders.model_source import ModelSource
from features.encoders.selector import Selector, parse_selector
from features.errors import InputError
from features.store.identity import STORE_FILE, StoreInfo, read_store_info, write_store_info
from features.store.locks import store_lock

KEPT_ENCODER = "encoder"
"""Folder in a store with a copy of the encoder, if its weights are random: no other copy exists."""
MODELS = "models"
"""Key of the provenance: a list of all resolved models that have the weights of this store."""


def recorded_models(info: StoreInfo) -> list[ModelSource] | None:
    """Return the models that a store was extracted with.

    Returns None if an earlier version, which did not record them, wrote the store. Raises
    InputError if the record is not a list of at least one model.
    """
    if MODELS not in info.provenance:
        return None
    try:
        return _read_models(info.provenance[MODELS])
    except (TypeError, ValueError) as error:
        raise InputError(f"{info.path / STORE_FILE} must list the models of the store: {error}") from error


def _read_models(records: Any) -> list[ModelSource]:
    if not isinstance(records, list) or not records:
        raise ValueError(f"{MODELS} must be a list of at least one model, found {records!r}")
    for record in records:
        if not isinstance(record, dict) or not all(map(_is_text_or_none, record.values())):
            raise ValueError(f"a model must be an object of strings, found {record!r}")
    return [ModelSource(**record) for record in records]


def _is_text_or_none(value: object) -> bool:
    return isinstance(value, str | None)


def record_model(info: StoreInfo, source: ModelSource) -> StoreInfo:
    """Record that a store has the weights of a model, and return the changed store.

    A store can have several models: equal weights can exist in several folders and files.
    """
    if source in (recorded_models(info) or ()):
        return info
    with store_lock(info.path):
        # read again under the lock: another process may have added a model
        info = read_store_info(info.path)
        models = [*(recorded_models(info) or ()), source]
        info = replace(info, provenance={**info.provenance, MODELS: [one.as_json() for one in models]})
        write_store_info(info)
    return info


def is_imported(info: StoreInfo) -> bool:
    """Tell whether a store holds features that a user imported, so that there is no encoder."""
    return info.encoder not in ENCODERS[info.modality] and "import" in info.provenance


def describe_models(info: StoreInfo) -> str:
    """Return the names of the models that a store was extracted with, for messages."""
    if is_imported(info):
        return f"imported from {info.provenance['import'][0]}"
    recorded = recorded_models(info)
    if recorded is None:
        return str(info.provenance.get("model"))
    code: Any = info.provenance.get("code")
    # without a model, a custom class can also have weights that no seed changes
    is_built = isinstance(code, dict) and not str(info.provenance.get("weights")).startswith("random")
    names = []
    for source in recorded:
        names.append(str(code.get("file")) if is_built and source.model is None else str(source))
    return " or ".join(names)


def recorded_selector(info: StoreInfo) -> Selector:
    """Return the selector of a store's encoder, model (see `recorded_source`) and layer.

    A custom encoder is the file that was extracted with, not trusted: the store may come from
    somebody else.
    """
    if is_custom_module(info.encoder):
        selector = _recorded_custom(info)
    elif recorded_models(info) is None:
        selector = parse_selector(str(info.provenance["selector"]), info.modality)
    else:
        selector = Selector(info.modality, info.encoder, recorded_source(info).usable)
    return replace(selector, layers=(info.identity.layer,))


def _recorded_custom(info: StoreInfo) -> Selector:
    """Return the selector of a store's custom encoder, which is not trusted yet."""
    code, sha256 = info.provenance.get("code"), info.identity.config.get(CODE)
    if not isinstance(code, dict) or not isinstance(code.get("file"), str) or not isinstance(sha256, str):
        raise InputError(f"{info.path / STORE_FILE} must name the file of its custom encoder, found {code!r}")
    name = f"{code['file']}:{info.encoder.rpartition(':')[2]}"
    model = recorded_source(info).usable
    return Selector(info.modality, name, model, trusted=False, code_sha256=sha256)


def recorded_source(info: StoreInfo) -> ModelSource:
    """Return the model that a store was extracted with.

    If it has several models, returns the first that still exists, or else the first.
    """
    recorded = recorded_models(info)
    if recorded is None:
        return ModelSource(info.provenance.get("model"))
    for source in recorded:
        if source.exists:
            return source
    return recorded[0]
