"""The streams a head reads: text, audio, and a second audio stream; each of one or more layers of one encoder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from features.canonical import differing_fields
from features.command_lines import DataPlace, extract_command, features_folder, identity_flags, recorded_flags
from features.encoders import ENCODERS
from features.encoders.finetuned import FineTuning, read_fine_tuning
from features.encoders.selector import Selector, expand_layers, parse_selectors
from features.errors import InputError, UsageError
from features.store.identity import StoreInfo
from features.store.index import list_stores, matching_stores, not_extracted, select_store
from features.store.models import recorded_selector, recorded_source
from features.store.reader import FeatureStore, UtteranceInfo
from mervn.config import StoreOptions

SECOND = "audio_2"
"""The name of the second audio stream."""


def modality_of(stream: str) -> str:
    """Return `text` or `audio`."""
    return "text" if stream == "text" else "audio"


@dataclass(frozen=True)
class StreamShape:
    """Shape of a stream's features, from which a head is built."""

    width: int
    layers: tuple[str, ...] = ("last",)
    """The layers that are mixed, as they are called in selectors."""
    stride: int = 0
    """Samples at 16 kHz from one frame to the next; 0 for text."""
    centre: float = 0.0
    """Sample at 16 kHz at the centre of the first frame."""

    def check(self, name: str) -> None:
        """Raise ValueError where a stream of this shape cannot be."""
        names = isinstance(self.layers, list | tuple) and all(isinstance(layer, str) for layer in self.layers)
        numbers = (self.width, self.stride, self.centre)
        if not names or not self.layers or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
            raise ValueError(f"streams.{name} must be the shape of a stream, found {self}")
        if not isinstance(self.width, int) or self.width < 1 or (modality_of(name) == "audio" and self.stride < 1):
            raise ValueError(f"streams.{name} must have a width and, for audio, a stride of 1 or more, found {self}")

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; `StreamShape(**object)` takes it back."""
        return asdict(self)


class Stream:
    """The stores of one encoder, one a layer; what one of them says of an utterance's input holds for all."""

    def __init__(self, name: str, stores: Sequence[FeatureStore], place: DataPlace) -> None:
        self.name, self.stores, self.place = name, tuple(stores), place
        self.first = self.stores[0]
        for store in self.stores[1:]:
            differing = set(differing_fields(self.first.info.identity.as_json(), store.info.identity.as_json())) - {
                "layer"
            }
            if differing:
                raise InputError(
                    f"the layers of one stream must come from one encoder, but {self.first.path} and {store.path} "
                    f"differ in {', '.join(sorted(differing))}"
                )

    def __contains__(self, utterance_id: str) -> bool:
        return all(utterance_id in store for store in self.stores)

    @property
    def modality(self) -> str:
        """`text` or `audio`."""
        return modality_of(self.name)

    @property
    def encoder(self) -> str:
        """The encoder's name in the registry."""
        return self.first.info.encoder

    @property
    def weights(self) -> str:
        """Origin of the encoder's weights, as people read it."""
        return str(self.first.info.provenance["weights"])

    @cached_property
    def fine_tuning(self) -> FineTuning | None:
        """Utterances that the encoder was fine-tuned on; None if it was not fine-tuned."""
        return read_fine_tuning(self.first.path)

    @property
    def hashes(self) -> list[str]:
        """The 8 hex of each store's identity."""
        return [store.info.hash for store in self.stores]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, as they are called in selectors."""
        return tuple(str(store.info.identity.layer) for store in self.stores)

    @property
    def selector(self) -> Selector:
        """The selector of these layers; of the models they were extracted with, one that still exists."""
        layers = tuple(store.info.identity.layer for store in self.stores)
        return replace(recorded_selector(self.first.info), layers=layers)

    def extract_command(self, *flags: str) -> str:
        """Return the `mervn extract` that adds utterances to these stores."""
        path = self.first.path.absolute() if len(self.first.path.parts) < 3 else self.first.path
        place = replace(self.place, features_dir=path.parent.parent)
        return extract_command(place, self.selector, *self._identity_flags, *flags)

    @property
    def _identity_flags(self) -> list[str]:
        return identity_flags(self.first.info.identity, ENCODERS[self.modality][self.encoder].settings)

    @property
    def model(self) -> dict[str, Any]:
        """The model, as it was resolved, and the flags to extract these stores by; for the record of a run."""
        flags = [f"--{self.modality}-encoder", str(self.selector), *self._identity_flags]
        return {**recorded_source(self.first.info).as_json(), "extract": shlex.join(flags)}

    @property
    def shape(self) -> StreamShape:
        """Shape of the features, from which a head is built."""
        spec = ENCODERS[self.modality][self.encoder]
        return StreamShape(self.first.dim, self.layers, spec.stride, spec.centre)

    def utterance_info(self, utterance_id: str) -> UtteranceInfo:
        """Return the input of an utterance's features; InputError if the layers have different inputs."""
        infos = [store.utterance_info(utterance_id) for store in self.stores]
        for store, info in zip(self.stores, infos, strict=True):
            if (info.input_sha256, info.length) != (infos[0].input_sha256, infos[0].length):
                raise InputError(
                    f"{utterance_id!r} has another content in {self.first.path} than in {store.path}: "
                    f"extract it again:\n  {self.extract_command('--update')}"
                )
        return infos[0]


def open_streams(options: StoreOptions, data: Path, modalities: Sequence[str]) -> dict[str, Stream]:
    """Open the streams that the options mean; InputError says what is wrong with any of them."""
    place = DataPlace(data, features_folder(options.features_dir, data), options.audio_root)
    wanted = _wanted(options, modalities)
    streams: dict[str, Stream] = {}
    faults: list[InputError] = []
    for name, (selector, path) in wanted.items():
        try:
            infos = _select(place, modality_of(name), selector, path)
            streams[name] = Stream(name, [FeatureStore(info.path) for info in infos], place)
        except InputError as error:
            faults.append(error)
    if faults:
        usage = any(isinstance(fault, UsageError) for fault in faults)
        raise (UsageError if usage else InputError)("\n".join(dict.fromkeys(map(str, faults))))
    return streams


def _wanted(options: StoreOptions, modalities: Sequence[str]) -> dict[str, tuple[Selector | None, Path | None]]:
    """Return the selector and the explicit store of each stream; UsageError where they contradict each other."""
    given = {"audio": (options.audio_encoder, options.audio_store), "text": (options.text_encoder, options.text_store)}
    wanted: dict[str, tuple[Selector | None, Path | None]] = {}
    for modality, (text, path) in given.items():
        selectors = parse_selectors(text, modality) if text is not None else []
        if path is not None and (len(selectors) > 1 or any(len(s.layers or ()) > 1 for s in selectors)):
            raise UsageError(f"--{modality}-store is one store, but --{modality}-encoder {text} means several")
        if modality in modalities:
            wanted[modality] = (selectors[0] if selectors else None, path)
            if len(selectors) > 1:
                wanted[SECOND] = (selectors[1], None)
    return wanted


def _select(place: DataPlace, modality: str, selector: Selector | None, path: Path | None) -> list[StoreInfo]:
    """Return the store of each layer that a selector means."""
    if selector is None or selector.layers is None:
        return [select_store(place, modality, selector, path)]
    layers = selector.layers
    if layers == ("all",):
        known = matching_stores(place.features_dir, replace(selector, layers=None))
        if known:
            layers = expand_layers(layers, max(int(info.provenance["num_layers"]) for info in known))
    each = {layer: replace(selector, layers=(layer,)) for layer in layers}
    missing = [layer for layer, one in each.items() if path is None and not matching_stores(place.features_dir, one)]
    if len(missing) > 1:  # one command extracts them all
        raise not_extracted(place, modality, replace(selector, layers=tuple(missing)))
    return [select_store(place, modality, one, path) for one in each.values()]


def find_streams(
    wanted: Mapping[str, Sequence[str]],
    place: DataPlace,
    explicit: Mapping[str, Path | None],
    models: Mapping[str, Mapping[str, Any]],
) -> dict[str, Stream]:
    """Open the streams of exactly these identities, each a list of hashes; InputError names one that is missing.

    `explicit` holds, by modality, a store outside the folder that a run was trained on; `models` the run's record of
    each stream's model.
    """
    streams = {}
    for name, hashes in wanted.items():
        flags = recorded_flags(str(models.get(name, {}).get("extract", "")))
        command = shlex.join(["mervn", "extract", *place.flags, *flags])
        paths = [_find(modality_of(name), text, place.features_dir, explicit, command) for text in hashes]
        streams[name] = Stream(name, [FeatureStore(path) for path in paths], place)
    return streams


def _find(modality: str, wanted: str, folder: Path, explicit: Mapping[str, Path | None], command: str) -> Path:
    infos = list_stores(folder, modality)
    for info in infos:
        if info.hash == wanted:
            return info.path
    given = explicit.get(modality)
    if given is not None and FeatureStore(given).info.hash == wanted:
        return given
    there = ", ".join(info.path.name for info in infos) or "none"
    raise InputError(
        f"the {modality} store of identity {wanted} that this run was trained on is not in {folder} (there: {there}); "
        f"give --features-dir, or extract with the same encoder:\n  {command}"
    )
