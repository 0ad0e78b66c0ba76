"""Encoders of a bundle: saved with all files that loading needs, and checked when they are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.canonical import differing_fields
from features.command_lines import recorded_settings
from features.encoders.base import Encoder, load_all_blocks, load_encoder
from features.encoders.config_fields import CODE
from features.encoders.finetuned import ENCODERS_FOLDER
from features.encoders.model_source import ModelSource
from features.encoders.selector import Selector
from features.errors import InputError, UsageError
from features.progress import Reporter
from features.text.segmenters import segmenter_sha256
from mervn.run_folder import RunConfig
from mervn.use.bundle_files import Bundle, BundledEncoder
from mervn.use.run_encoders import StreamEncoder, find_records

OWN_MODEL = "model"
"""Folder with the model that a custom encoder loads itself."""


@dataclass(frozen=True)
class SavedModel:
    """Place of the weights of an encoder in a bundle."""

    model: str | None
    """Path within the folder of the encoder; `.` is the folder, None is no model."""
    link: str | None = None
    """Hub id and commit, if the weights are not in the bundle."""


def save_encoders(
    run: Path, config: RunConfig, folder: Path, options: tuple[Path | None, bool, bool], reporter: Reporter
) -> dict[str, BundledEncoder]:
    """Write the encoders of a run into a bundle and return their entries in bundle.json, by stream.

    `options` are the folder of the feature stores, whether encoders of the hub are linked, and
    whether code of the run may be executed. Raises the errors of `open_encoders`.
    """
    features_dir, link, trust_code = options
    entries = {}
    if config.command == "finetune":
        for name in config.inputs["encoders"]:
            place = folder / ENCODERS_FOLDER / name
            shutil.copytree(run / ENCODERS_FOLDER / name, place, copy_function=shutil.copyfile)
            entries[name] = _entry(load_encoder(_tuned_selector(config, name, place)), SavedModel("."), "fp32", None)
        return entries
    for name, recorded in find_records(run, config, features_dir).items():
        selector = replace(recorded.selector, trusted=recorded.selector.trusted or trust_code)
        encoder = load_all_blocks(selector, recorded.settings)
        saved = _save(encoder, selector, folder / ENCODERS_FOLDER / name, link)
        if link and saved.link is None:
            reporter.say(f"{name}: {selector} is not from the hub, so it is copied and not linked")
        entries[name] = _entry(encoder, saved, recorded.precision, recorded.store_dtype)
    return entries


def _tuned_selector(config: RunConfig, stream: str, folder: Path) -> Selector:
    """Return the selector of an encoder in a run of `finetune`."""
    modality = "text" if stream == "text" else "audio"
    return Selector(modality, str(config.inputs["encoders"][stream]["name"]), str(folder))


def _save(encoder: Encoder, selector: Selector, folder: Path, link: bool) -> SavedModel:
    """Write one encoder with all its blocks, unless it is linked."""
    if link and encoder.source.commit is not None and not selector.is_custom:
        return SavedModel(None, encoder.source.usable)
    encoder.save(folder)
    if encoder.fine_tuning is not None:
        encoder.fine_tuning.save(folder)  # keeps the record of the utterances that it was trained on
    if not selector.is_custom:
        return SavedModel(".")
    if selector.model is None:
        return SavedModel(None)
    if "model" not in encoder.config:  # the class loads no model itself: its weights are in the folder
        return SavedModel(".")
    return SavedModel(_copy_model(encoder.source, selector, folder / OWN_MODEL))


def _copy_model(source: ModelSource, selector: Selector, folder: Path) -> str:
    """Copy the folder or file that a custom encoder loads itself; return its path in the encoder's folder."""
    from features.encoders.hub import cached_snapshot

    model = Path(str(source.model)) if source.commit is None else cached_snapshot(str(source.usable))
    if model is None or not model.exists():
        raise InputError(f"{selector.flag}: the model that the class loads must exist, found no {source.model}")
    if model.is_dir():
        shutil.copytree(model, folder, copy_function=shutil.copyfile)
        return OWN_MODEL
    folder.mkdir()
    shutil.copyfile(model, folder / model.name)
    return f"{OWN_MODEL}/{model.name}"


def _entry(encoder: Encoder, saved: SavedModel, precision: str, store_dtype: str | None) -> BundledEncoder:
    """Return the entry of an encoder in bundle.json."""
    settings = recorded_settings(encoder.config)
    selector = Selector(encoder.modality, encoder.name)
    return BundledEncoder(
        modality=encoder.modality,
        name=encoder.name,
        layers=encoder.layers,
        settings=settings.only(selector.spec.settings),
        precision=precision,
        store_dtype=store_dtype,
        weights_sha256=encoder.weights_sha256,
        config=_plain(encoder.config),
        numerics_version=encoder.numerics_version,
        segmenter_sha256=_segmenter_sha256(encoder),
        model=saved.model,
        link=saved.link,
        weights=short_note(encoder.weights_note),
        licence=selector.spec.licence,
    )


def short_note(note: str) -> str:
    """Return the origin of weights without the folder on this machine."""
    head, mark, model = note.rpartition(", ")
    return f"{head}{mark}{Path(model).name}" if Path(model).is_absolute() else note


def _segmenter_sha256(encoder: Encoder) -> str | None:
    """Return the hash of the files of the word segmenter of a text encoder; None without one."""
    name = recorded_settings(encoder.config).segmenter if encoder.modality == "text" else None
    return None if name is None else segmenter_sha256(name)


def load_encoders(folder: Path, bundle: Bundle, trust_code: bool) -> dict[str, StreamEncoder]:
    """Load the encoders of a bundle by stream, on the CPU.

    Raises InputError unless each is the one that was exported. Raises UsageError for a custom
    encoder without `trust_code`.
    """
    encoders = {}
    for name, entry in bundle.encoders.items():
        encoder = load_encoder(_selector(folder / ENCODERS_FOLDER / name, entry, trust_code), entry.settings)
        _refuse_other(folder, name, entry, encoder)
        encoders[name] = StreamEncoder(encoder, entry.precision, entry.store_dtype)
    return encoders


def _selector(folder: Path, entry: BundledEncoder, trust_code: bool) -> Selector:
    """Return the selector that loads an encoder of a bundle."""
    name, model = entry.name, entry.link
    is_custom = Selector(entry.modality, name).is_custom
    if is_custom:
        name = str(folder / name)
        if not trust_code:
            raise UsageError(f"{folder} contains custom code, {name}. Review it, then pass --trust-code")
    elif Selector(entry.modality, name).is_imported:
        raise InputError(f"{folder}: {name!r} must be an encoder of this version, but it knows none of this name")
    if entry.link is None and entry.model is not None:
        model = str(folder / entry.model)
    code = entry.config.get(CODE) if is_custom else None
    return Selector(entry.modality, name, model, entry.layers, trusted=not is_custom or trust_code, code_sha256=code)


def _refuse_other(folder: Path, stream: str, entry: BundledEncoder, encoder: Encoder) -> None:
    """Raise InputError, with the differences, unless an encoder is the one that was exported."""
    now = _entry(encoder, SavedModel(entry.model, entry.link), entry.precision, entry.store_dtype)
    found, expected = now.as_json(), entry.as_json()
    for free in ("weights", "licence", "settings"):  # notes for people, and what `config` holds too
        found[free] = expected[free]
    differing = differing_fields(_plain(expected), _plain(found))
    if not differing:
        return
    message = f"the {stream} encoder of the bundle {folder} must be the one that was exported, but it differs:"
    for key, (then, here) in differing.items():
        message += f"\n  {key}: {then!r} in the bundle, {here!r} here"
    raise InputError(message)


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the types that JSON has."""
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain
