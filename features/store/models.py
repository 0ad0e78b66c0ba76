"""Which models a store came from, as they were resolved: recorded in its provenance, apart from the identity."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from features.atomic_files import write_atomically
from features.encoders.model_source import ModelSource
from features.encoders.selector import Selector, parse_selector
from features.errors import InputError
from features.store.identity import SCHEMA, STORE_FILE, StoreInfo, read_store_info
from features.store.locks import store_lock

KEPT_ENCODER = "encoder"
"""Folder in a store that keeps random weights, which no other folder holds."""
MODELS = "models"
"""Key of the provenance: every model, as it was resolved, whose weights gave this store."""


def recorded_models(info: StoreInfo) -> list[ModelSource] | None:
    """Return the models a store was extracted with; None for a store of a version that did not record them.

    InputError for a record that is no list of at least one model.
    """
    if MODELS not in info.provenance:
        return None
    try:
        return _read_models(info.provenance[MODELS])
    except (TypeError, ValueError) as error:
        raise InputError(f"{info.path / STORE_FILE} must record the models of the store, found: {error}") from error


def _read_models(records: Any) -> list[ModelSource]:
    if not isinstance(records, list) or not records:
        raise ValueError(f"{MODELS} must be a list of at least one model, not {records!r}")
    for record in records:
        if not isinstance(record, dict) or not all(isinstance(value, str | None) for value in record.values()):
            raise ValueError(f"a model must be an object of texts, not {record!r}")
    return [ModelSource(**record) for record in records]


def record_model(info: StoreInfo, source: ModelSource) -> StoreInfo:
    """Add a model to those a store is known to come from: equal weights can stand in several folders and files."""
    if source in (recorded_models(info) or ()):
        return info
    with store_lock(info.path):
        info = read_store_info(info.path)
        models = [*(recorded_models(info) or ()), source]
        info = replace(info, provenance={**info.provenance, MODELS: [one.as_json() for one in models]})
        document = {"schema": SCHEMA, "identity": dict(info.identity), "provenance": dict(info.provenance)}
        write_atomically(info.path / STORE_FILE, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return info


def describe_models(info: StoreInfo) -> str:
    """Return the models whose weights a store was extracted with, for people."""
    recorded = recorded_models(info)
    return " or ".join(map(str, recorded)) if recorded is not None else str(info.provenance.get("model"))


def recorded_selector(info: StoreInfo) -> Selector:
    """Return the selector that names a store's encoder, model and layer; of several models the first that exists."""
    if recorded_models(info) is None:
        selector = parse_selector(str(info.provenance["selector"]), info.modality)
    else:
        selector = Selector(info.modality, info.encoder, recorded_source(info).usable)
    return replace(selector, layers=(info.identity["layer"],))


def recorded_source(info: StoreInfo) -> ModelSource:
    """Return the model that a store came from; of several the first that still exists."""
    recorded = recorded_models(info)
    if recorded is None:
        return ModelSource(info.provenance.get("model"))
    return next((source for source in recorded if source.exists), recorded[0])
