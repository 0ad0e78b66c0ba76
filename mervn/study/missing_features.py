"""Features that a study needs and that are not extracted yet, each encoder in one pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.command_lines import DataPlace, features_folder
from features.config import SplitName
from features.encoders.selector import Layer, Selector, expand_layers, parse_selectors
from features.errors import UsageError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance, read_manifests
from features.manifests.utterances import Utterances
from features.progress import Reporter
from features.store.identity import StoreInfo
from features.store.index import matching_stores, not_extracted
from features.store.reader import FeatureStore
from features.store.rejected import read_rejected
from mervn.config import TrainHeadOptions
from mervn.study.cells import Candidate


@dataclass(frozen=True)
class MissingFeatures:
    """The encoders to run, and the utterances to run them on."""

    selectors: Sequence[Selector]
    utterances: Sequence[Utterance]
    settings: ExtractSettings


def find_missing(
    candidates: Iterable[Candidate], data: Path, splits: Sequence[SplitName], options: TrainHeadOptions
) -> MissingFeatures:
    """Return the encoders of which a store is missing or incomplete; rejected utterances are no gap.

    `options` give the folders, the device and the number of threads. UsageError if the candidates
    name an encoder with and without layers. Imported features cannot be extracted: InputError if
    there are none; training refuses a store without some of the utterances.
    """
    wanted = _wanted(candidates)
    _refuse_open_layers(wanted)
    root, folder = options.audio_root, features_folder(options.features_dir, data)
    manifests = read_manifests(data, splits, audio_root=root, require_emotion=False, check_audio=False)
    ids = [utterance.utterance_id for utterance in manifests.all_utterances()]
    missing = []
    for selector in wanted:
        if selector.is_imported:
            _require_stores(DataPlace(data, folder, root), selector)
        elif not _is_extracted(folder, selector, ids):
            missing.append(selector)
    if any(selector.modality == "audio" for selector in missing):
        manifests = read_manifests(data, splits, audio_root=root, require_emotion=False, check_audio=True)
    utterances = Utterances.join(manifests.values())
    settings = ExtractSettings(folder, device=options.device, threads=options.threads)
    return MissingFeatures(_merged(missing), utterances, settings)


def extract_missing(missing: MissingFeatures, reporter: Reporter, *, plan_only: bool) -> None:
    """Extract the missing features, or only print what it would cost.

    Each encoder announces its cost before it starts.
    """
    if not missing.selectors:
        return
    names = ", ".join(map(str, missing.selectors))
    passes = "1 encoder" if len(missing.selectors) == 1 else f"{len(missing.selectors)} encoders"
    verb = "would extract" if plan_only else "extracting"
    reporter.say(f"features are missing: {verb} {len(missing.utterances)} utterances with {passes}, once: {names}")
    for selector in missing.selectors:
        extract_stream(missing.utterances, selector, replace(missing.settings, plan_only=plan_only), reporter)


def _wanted(candidates: Iterable[Candidate]) -> list[Selector]:
    """Return the encoders that the grid names and a fusion reads, without those of a given store."""
    found: dict[Selector, None] = {}
    for candidate in candidates:
        options = candidate.resolved.options
        for modality in candidate.resolved.fusion.streams:
            text, store = getattr(options, f"{modality}_encoder"), getattr(options, f"{modality}_store")
            if text is not None and store is None:
                found |= dict.fromkeys(parse_selectors(text, modality, imported=True))
    return list(found)


def _refuse_open_layers(selectors: Sequence[Selector]) -> None:
    """Raise UsageError if an encoder is named with and without layers.

    The name alone means its only store, and there would be one for each layer.
    """
    for selector in selectors:
        for other in selectors:
            if selector.layers is None and other.layers and replace(other, layers=None) == selector:
                layer = "last" if selector.spec.depth is None and not selector.is_imported else "LAYER"
                raise UsageError(
                    f"{selector.modality}-encoder must name the layer of every {selector} in a grid with several "
                    f"layers, found {selector} and {other}; write {selector}@{layer}"
                )


def _require_stores(place: DataPlace, selector: Selector) -> None:
    """Raise InputError unless there is a store of each layer of imported features."""
    for layer in selector.layers or ("all",):
        one = replace(selector, layers=None if layer == "all" else (layer,))
        if not matching_stores(place.features_dir, one):
            raise not_extracted(place, selector.modality, one)


def _is_extracted(folder: Path, selector: Selector, ids: Collection[str]) -> bool:
    """Tell whether each layer of a selector has a store with all of these utterances."""
    stores = matching_stores(folder, replace(selector, layers=None) if selector.layers == ("all",) else selector)
    complete = [info for info in stores if _is_complete(info, ids)]
    if selector.layers is None:
        return bool(complete)
    layers = selector.layers
    if layers == ("all",) and stores:
        layers = expand_layers(layers, max(int(info.provenance["num_layers"]) for info in stores))
    return set(layers) <= {info.identity.layer for info in complete}


def _is_complete(info: StoreInfo, ids: Collection[str]) -> bool:
    known = {*FeatureStore(info.path), *read_rejected(info.path)}
    return known.issuperset(ids)


def _merged(selectors: Iterable[Selector]) -> list[Selector]:
    """Join the layers of selectors of one model: the encoder then runs once."""
    layers: dict[Selector, list[Layer]] = {}
    defaults: list[Selector] = []
    for selector in selectors:
        if selector.layers is None and selector.spec.depth is not None:
            defaults.append(selector)  # a number that only the loaded encoder knows
        else:
            layers.setdefault(replace(selector, layers=None), []).extend(selector.layers or ("last",))
    merged = []
    for model, several in layers.items():
        together = ("all",) if "all" in several else tuple(dict.fromkeys(several))
        merged.append(replace(model, layers=None if together == ("last",) else together))
    return [*merged, *defaults]
