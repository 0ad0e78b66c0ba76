"""Streams that a head reads: text, audio, and a second audio stream.

A stream has one or more layers of one encoder.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from features.canonical import differing_fields
from features.command_lines import (
    DataPlace,
    extract_command,
    features_folder,
    identity_flags,
    import_command,
    recorded_flags,
)
from features.encoders.config_fields import CAUSAL
from features.encoders.finetuned import FineTuning, read_fine_tuning
from features.encoders.model_source import ModelSource
from features.encoders.selector import Layer, Selector, expand_layers, parse_selectors
from features.errors import InputError, UsageError
from features.store.identity import StoreInfo
from features.store.index import list_stores, matching_stores, not_extracted, select_store
from features.store.models import is_imported, recorded_selector, recorded_source
from features.store.reader import FeatureStore
from features.store.stored_inputs import StoredInputs
from mervn.config import StoreOptions

SECOND = "audio_2"
"""The name of the second audio stream."""


def modality_of(stream: str) -> str:
    """Return the modality of a stream, `text` or `audio`."""
    return "text" if stream == "text" else "audio"


@dataclass(frozen=True)
class StreamShape:
    """Shape of a stream's features, from which a head is built."""

    width: int
    layers: tuple[str, ...] = ("last",)
    """The layers that are mixed, named as in selectors."""
    stride: float = 0
    """Samples at 16 kHz from one frame to the next; 0 for text."""
    centre: float = 0.0
    """Sample at 16 kHz at the centre of the first frame."""
    causal: bool = False
    """Whether a token's features depend on no later token, as in a decoder-only language model."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry in config.json, without `causal` unless it is set."""
        document = asdict(self)
        return document if self.causal else {name: document[name] for name in document if name != "causal"}

    def check(self, name: str) -> None:
        """Raise ValueError if no stream can have this shape."""
        is_list = isinstance(self.layers, list | tuple) and len(self.layers) > 0
        if not is_list or not all(isinstance(layer, str) for layer in self.layers):
            raise ValueError(f"streams.{name}.layers must be a list of names of layers, found {self}")
        for number in (self.width, self.stride, self.centre):
            if not isinstance(number, int | float) or not number >= 0:  # `not >=` holds for NaN
                raise ValueError(f"streams.{name} must have numbers of 0 or more, found {self}")
        if not isinstance(self.causal, bool):
            raise ValueError(f"streams.{name}.causal must be true or false, found {self}")
        if not isinstance(self.width, int) or self.width < 1 or (modality_of(name) == "audio" and self.stride < 1):
            raise ValueError(f"streams.{name} must have a width and, for audio, a stride of 1 or more, found {self}")


class Stream:
    """Stores of one encoder, one store per layer, all extracted from the same inputs."""

    def __init__(self, name: str, stores: Sequence[FeatureStore], place: DataPlace) -> None:
        self.name, self.stores, self.place = name, tuple(stores), place
        self.first = self.stores[0]
        for store in self.stores[1:]:
            first, other = self.first.info.identity.as_json(), store.info.identity.as_json()
            # only the layer may differ, and of imported features the hash of the features themselves
            both_imported = self.imported and is_imported(store.info)
            free = {"layer", "weights_sha256"} if both_imported else {"layer"}
            differing = differing_fields(first, other).keys() - free
            if differing:
                raise InputError(
                    f"the layers of one stream must come from one encoder, but {self.first.path} "
                    f"and {store.path} differ in {', '.join(sorted(differing))}"
                )

    def __contains__(self, utterance_id: str) -> bool:
        return all(utterance_id in store for store in self.stores)

    @property
    def modality(self) -> str:
        """The modality, `text` or `audio`."""
        return modality_of(self.name)

    @property
    def encoder(self) -> str:
        """The encoder's name in the registry."""
        return self.first.info.encoder

    @property
    def imported(self) -> bool:
        """True if a user imported the features: there is no encoder."""
        return is_imported(self.first.info)

    @property
    def weights(self) -> str:
        """Origin of the encoder's weights, as text for messages."""
        return str(self.first.info.provenance["weights"])

    @cached_property
    def fine_tuning(self) -> FineTuning | None:
        """Record of the utterances that the encoder was fine-tuned on; None without fine-tuning."""
        return read_fine_tuning(self.first.path)

    @property
    def hashes(self) -> list[str]:
        """The hash of each store's identity."""
        return [store.info.hash for store in self.stores]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, named as in selectors."""
        return tuple(map(str, self._layers))

    @property
    def _layers(self) -> tuple[Layer, ...]:
        """The layer of each store."""
        return tuple(store.info.identity.layer for store in self.stores)

    @property
    def selector(self) -> Selector:
        """The selector of these layers; of several recorded models, the first that still exists."""
        return replace(recorded_selector(self.first.info), layers=self._layers)

    def extract_command(self, *flags: str) -> str:
        """Return the `mervn extract` command that adds utterances to these stores."""
        path = self.first.path
        if self.imported:
            return import_command(self.place, self.first.info.provenance["import"])
        if len(path.parts) < 3:  # too short for the features folder, which is two levels up
            path = path.absolute()
        place = replace(self.place, features_dir=path.parent.parent)
        return extract_command(place, self.selector, *self._identity_flags, *flags)

    @property
    def _identity_flags(self) -> list[str]:
        """The flags of `mervn extract` that are part of the identity of the stores."""
        return identity_flags(self.first.info.identity, Selector(self.modality, self.encoder).spec.settings)

    @property
    def model(self) -> dict[str, str | None]:
        """The resolved model, and the flags to extract these stores; recorded in config.json."""
        flags = [f"--{self.modality}-encoder", str(self.selector), *self._identity_flags]
        if self.imported:
            return {**ModelSource().as_json(), "extract": "", "imported": self.encoder}
        return {**recorded_source(self.first.info).as_json(), "extract": shlex.join(flags)}

    @property
    def shape(self) -> StreamShape:
        """Shape of the features, from which a head is built."""
        spec, config = Selector(self.modality, self.encoder).spec, self.first.info.identity.config
        # custom encoders and imported features have their own frame times, which the store records
        stride, centre = config.get("stride", spec.stride), config.get("centre", spec.centre)
        return StreamShape(self.first.dim, self.layers, stride, centre, bool(config.get(CAUSAL, False)))

    def inputs(self, utterance_ids: Sequence[str]) -> list[StoredInputs]:
        """Return what each store records about N utterances; InputError if their layers differ in inputs."""
        first, *others = found = [store.inputs(store.places(utterance_ids)) for store in self.stores]
        for store, other in zip(self.stores[1:], others, strict=True):
            differing = (other.input_sha256 != first.input_sha256) | (other.lengths != first.lengths)
            if differing.any():
                raise InputError(
                    f"{utterance_ids[differing.argmax()]!r} must have one input in all layers, {self.first.path} and "
                    f"{store.path} differ: extract it again:\n  {self.extract_command('--update')}"
                )
        return found


def open_streams(options: StoreOptions, data: Path, modalities: Sequence[str]) -> dict[str, Stream]:
    """Open the streams that the options select; one error lists the problems of all streams."""
    place = DataPlace(data, features_folder(options.features_dir, data), options.audio_root)
    wanted = _wanted(options, modalities)
    streams: dict[str, Stream] = {}
    errors: list[InputError] = []
    for name, (selector, path) in wanted.items():
        try:
            infos = _select(place, modality_of(name), selector, path)
            streams[name] = Stream(name, [FeatureStore(info.path) for info in infos], place)
        except InputError as error:
            errors.append(error)
    if errors:
        message = "\n".join(dict.fromkeys(map(str, errors)))  # each message once
        if any(isinstance(error, UsageError) for error in errors):
            raise UsageError(message)
        raise InputError(message)
    _refuse_frames_at_vectors(streams)
    return streams


def _refuse_frames_at_vectors(streams: Mapping[str, Stream]) -> None:
    """Raise UsageError if a second audio stream with frames would be cut to the vector of the first.

    The second stream is aligned to the frames of the first, and one vector is one frame.
    """
    if SECOND not in streams:
        return
    first, second = streams["audio"], streams[SECOND]
    if first.first.info.identity.config.get("vectors") and not second.first.info.identity.config.get("vectors"):
        raise UsageError(
            f"--audio-encoder: the first stream must have frames, found one vector per utterance ({first.encoder}); "
            f"exchange the streams: {second.selector}+{first.selector}"
        )


def _wanted(options: StoreOptions, modalities: Sequence[str]) -> dict[str, tuple[Selector | None, Path | None]]:
    """Return the selector and the explicit store of each stream; UsageError if they conflict."""
    given = {"audio": (options.audio_encoder, options.audio_store), "text": (options.text_encoder, options.text_store)}
    wanted: dict[str, tuple[Selector | None, Path | None]] = {}
    for modality, (text, path) in given.items():
        selectors = parse_selectors(text, modality, imported=True) if text is not None else []
        num_stores = sum(len(selector.layers or ("last",)) for selector in selectors)
        if path is not None and num_stores > 1:
            raise UsageError(f"--{modality}-store is one store, but --{modality}-encoder {text} means several")
        if modality in modalities:
            wanted[modality] = (selectors[0] if selectors else None, path)
            if len(selectors) > 1:  # a second audio encoder; it has no explicit store
                wanted[SECOND] = (selectors[1], None)
    return wanted


def _select(place: DataPlace, modality: str, selector: Selector | None, path: Path | None) -> list[StoreInfo]:
    """Return the stores that a selector means, one per layer; InputError if one is missing."""
    if selector is None or selector.layers is None:
        return [select_store(place, modality, selector, path)]
    layers = selector.layers
    if layers == ("all",):
        stores = matching_stores(place.features_dir, replace(selector, layers=None))
        if stores:  # without stores, `all` stays in the command that the error suggests
            layers = expand_layers(layers, max(int(info.provenance["num_layers"]) for info in stores))
    by_layer = {layer: replace(selector, layers=(layer,)) for layer in layers}
    missing = []
    for layer, one_layer in by_layer.items():
        if path is None and not matching_stores(place.features_dir, one_layer):
            missing.append(layer)
    if len(missing) > 1:  # name one command that extracts all of them
        raise not_extracted(place, modality, replace(selector, layers=tuple(missing)))
    return [select_store(place, modality, one_layer, path) for one_layer in by_layer.values()]


def find_streams(
    wanted: Mapping[str, Sequence[str]],
    place: DataPlace,
    explicit: Mapping[str, Path | None],
    models: Mapping[str, Mapping[str, Any]],
) -> dict[str, Stream]:
    """Open the streams of exactly these identities, a list of hashes per stream.

    InputError if a store is missing. `explicit` holds, by modality, the store outside the features
    folder that a run was trained on, if any. `models` is the run's record of each stream's model.
    """
    streams = {}
    for name, hashes in wanted.items():
        flags = recorded_flags(str(models.get(name, {}).get("extract", "")))
        command = shlex.join(["mervn", "extract", *place.flags, *flags])
        if "imported" in models.get(name, {}):
            command = "mervn store import, with the same features"
        paths = [_find(modality_of(name), one, place.features_dir, explicit, command) for one in hashes]
        streams[name] = Stream(name, list(map(FeatureStore, paths)), place)
    return streams


def _find(modality: str, wanted: str, folder: Path, explicit: Mapping[str, Path | None], command: str) -> Path:
    """Return the store whose identity has the hash `wanted`.

    InputError if there is none; its message suggests `command` to extract it.
    """
    infos = list_stores(folder, modality)
    for info in infos:
        if info.hash == wanted:
            return info.path
    given = explicit.get(modality)  # opened only if the folder has no match
    if given is not None and FeatureStore(given).info.hash == wanted:
        return given
    existing = ", ".join(info.path.name for info in infos) or "none"
    raise InputError(
        f"{folder} must hold the {modality} store of identity {wanted} that this run was trained on, "
        f"found {existing}; give --features-dir, or extract with the same encoder:\n  {command}"
    )
