"""Encoders of a run: those that computed its stored features, or that were trained with its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from features.canonical import differing_fields
from features.command_lines import recorded_flags, recorded_settings
from features.encoders.base import Encoder, load_encoder
from features.encoders.pretrained import CONFIG_FILE
from features.encoders.selector import EncoderSettings, Selector, parse_selector
from features.errors import InputError, UsageError
from features.extraction.settings import ExtractSettings, store_identity
from features.store.identity import STORE_FILE, StoreIdentity, StoreInfo, read_store_info
from features.store.index import features_folder, list_stores
from features.store.models import KEPT_ENCODER, is_imported, recorded_selector
from mervn.data.streams import modality_of
from mervn.model.saved_run import load_tuned
from mervn.run_folder import CONFIG_FILE as RUN_FILE
from mervn.run_folder import RunConfig


@dataclass(frozen=True)
class StreamEncoder:
    """The encoder of one stream, and the form in which the head was trained on its features."""

    encoder: Encoder
    """Frozen, in eval mode."""
    precision: str = "fp32"
    """Precision in which it computes: fp32 or bf16."""
    store_dtype: str | None = None
    """fp16 or fp32: features are rounded to it, as in the store; None without a store."""


@dataclass(frozen=True)
class Recorded:
    """Record of the encoder of one stream, from its stores or from config.json."""

    selector: Selector
    settings: EncoderSettings
    precision: str
    store_dtype: str
    place: str
    """Where the record was found, for messages."""
    identities: Sequence[StoreIdentity] = ()
    """Identity of the store of each layer; empty if the stores are not on this machine."""


def open_encoders(
    run: Path, config: RunConfig, features_dir: Path | None = None, trust_code: bool = False
) -> dict[str, StreamEncoder]:
    """Load the encoders of a run by stream, on the CPU.

    A run of `finetune` holds them. For a run of `train-head`, they are those that its stores were
    extracted with: the record is read from the stores, or from config.json if the stores are not on
    this machine. InputError if an encoder cannot be found, or if its weights or settings are not
    those of the features that the head was trained on. UsageError for imported features, and for a
    custom encoder without `trust_code`.
    """
    if config.command == "finetune":
        encoders = {}
        for name, entry in config.inputs["encoders"].items():
            encoders[name] = StreamEncoder(load_tuned(run, name, str(entry.get("name"))))
        return encoders
    found = {}
    for name, recorded in find_records(run, config, features_dir).items():
        found[name] = _load(run, name, config.inputs["stores"][name], recorded, trust_code)
    return found


def find_records(run: Path, config: RunConfig, features_dir: Path | None = None) -> dict[str, Recorded]:
    """Return the record of each encoder of a run of `train-head`, by stream; nothing is loaded.

    Raises the errors of `open_encoders`.
    """
    if features_dir is not None and not features_dir.is_dir():
        raise UsageError(f"--features-dir must be the folder of the feature stores, but {features_dir} is no folder")
    folders = [_recorded_folder(config)] if features_dir is None else [features_dir, _recorded_folder(config)]
    records = {}
    for name, hashes in config.inputs["stores"].items():
        infos = _find_stores(config, modality_of(name), hashes, folders)
        if infos is None:
            records[name] = _record_of_run(run, config, name, hashes, folders[0])
        else:
            records[name] = _record_of_stores(run, infos)
    return records


def _recorded_folder(config: RunConfig) -> Path:
    """Return the folder of the feature stores that a run was trained on."""
    recorded = config.options.get("features_dir")
    return features_folder(Path(recorded) if recorded else None, Path(config.options["data"]))


def _find_stores(
    config: RunConfig, modality: str, hashes: Sequence[str], folders: Sequence[Path]
) -> list[StoreInfo] | None:
    """Return the stores with these hashes, in their order; None if one is missing."""
    by_hash: dict[str, StoreInfo] = {}
    for info in chain.from_iterable(list_stores(folder, modality) for folder in folders):
        by_hash.setdefault(info.hash, info)
    explicit = config.options.get(f"{modality}_store")
    if explicit and (Path(explicit) / STORE_FILE).is_file():
        info = read_store_info(Path(explicit))
        by_hash.setdefault(info.hash, info)
    return [by_hash[one] for one in hashes] if by_hash.keys() >= set(hashes) else None


def _record_of_stores(run: Path, infos: Sequence[StoreInfo]) -> Recorded:
    """Return the record that the stores of one stream hold; UsageError for imported features."""
    first = infos[0]
    if is_imported(first):
        raise _imported(run, first.encoder)
    selector, copy = recorded_selector(first), first.path / KEPT_ENCODER
    selector = replace(selector, layers=tuple(info.identity.layer for info in infos))
    if selector.model is None and (copy / CONFIG_FILE).is_file():  # random weights have no other copy
        selector = replace(selector, model=str(copy))
    identity = first.identity
    return Recorded(
        selector, recorded_settings(identity.config), identity.encoder_precision, identity.store_dtype,
        str(first.path), [info.identity for info in infos],
    )  # fmt: skip


def _record_of_run(run: Path, config: RunConfig, stream: str, hashes: Sequence[str], folder: Path) -> Recorded:
    """Return the record that config.json holds.

    InputError if it names no encoder that can be loaded without the store: a custom one, for example.
    """
    model: Mapping[str, Any] = config.models.get(stream, {})
    if "imported" in model:
        raise _imported(run, str(model["imported"]))
    flags = recorded_flags(str(model.get("extract", "")))
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    modality = modality_of(stream)
    text = given.get(f"--{modality}-encoder")
    if text is None:
        raise InputError(
            f"{folder} must hold the {modality} store of identity {' and '.join(hashes)} that {run} was trained on, "
            f"because {RUN_FILE} does not name its encoder; give the folder of the stores with --features-dir"
        )
    settings = EncoderSettings(given.get("--segmenter"), given.get("--tone-style"), given.get("--whisper-mode"))
    precision, dtype = given.get("--encoder-precision", "fp32"), given.get("--store-dtype", "fp16")
    return Recorded(parse_selector(text, modality), settings, precision, dtype, str(run / RUN_FILE))


def _imported(run: Path, name: str) -> UsageError:
    """Return the error of a run that was trained on imported features."""
    return UsageError(
        f"{run} was trained on imported features ({name}): there is no encoder to compute them for other inputs"
    )


def _load(run: Path, stream: str, hashes: Sequence[str], recorded: Recorded, trust_code: bool) -> StreamEncoder:
    """Load an encoder; InputError unless it computes the features that the head was trained on."""
    selector = recorded.selector
    encoder = load_encoder(replace(selector, trusted=selector.trusted or trust_code), recorded.settings)
    settings = ExtractSettings(Path(), recorded.store_dtype, recorded.precision)
    live = [store_identity(encoder, selector, layer, settings) for layer in encoder.layers]
    if [identity.hash for identity in live] == list(hashes):
        return StreamEncoder(encoder, recorded.precision, recorded.store_dtype)
    message = (
        f"{run} was trained on features of identity {' and '.join(hashes)}, but the encoder {selector}, "
        f"which {recorded.place} names, gives others ({' and '.join(identity.hash for identity in live)})"
    )
    if recorded.identities:
        differing = differing_fields(recorded.identities[0].as_json(), live[0].as_json())
        for key, (stored, now) in differing.items():
            message += f"\n  {key}: {stored!r} in the store, {now!r} now"
    else:
        message += ": its weights, settings or numerics_version differ; restore them, or train again"
    raise InputError(message)
