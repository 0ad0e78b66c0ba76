"""Layer probe: a linear classifier on the time-mean of each layer, to choose one to extract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from features.command_lines import DataPlace
from features.encoders.selector import MEANS, Layer, Selector
from features.errors import InputError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Reporter
from features.store.index import matching_stores, not_extracted, select_store
from features.store.reader import FeatureStore
from mervn.data.feature_checks import refuse_changed
from mervn.data.stored_split import index_targets
from mervn.data.streams import Stream
from mervn.evaluation.metrics import Metrics, compute_metrics

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class LayerScore:
    """Scores on valid of the linear probe of one layer."""

    layer: Layer
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class LayerReport:
    """Scores of all layers, in order."""

    store: Path
    scores: list[LayerScore]
    n: Mapping[str, int]
    """Number of utterances, by split."""
    missing: Mapping[str, int]
    """Number of utterances without features (no transcript, or rejected), by split."""

    @property
    def best(self) -> LayerScore:
        """The layer with the highest macro-F1 on valid; of equal ones the lowest."""
        return max(self.scores, key=lambda score: score.macro_f1)


def probe_layers(
    selector: Selector,
    data: Path,
    audio_root: Path | None,
    settings: ExtractSettings,
    reporter: Reporter,
) -> LayerReport:
    """Extract the time-means of all layers for train and valid into a store, and probe each layer.

    Imported features are read from their stores, one store per layer. Test is not read. InputError
    if a split has features of fewer than two emotions.
    """
    is_audio = selector.modality == "audio"
    manifests = read_manifests(data, SPLITS, audio_root=audio_root, check_audio=is_audio, reporter=reporter)
    utterances = list(chain.from_iterable(manifests.values()))
    probed = _stores(selector, DataPlace(data, settings.features_dir, audio_root), utterances, settings, reporter)
    labels = sorted({str(utterance.emotion) for utterance in manifests["train"]})
    features, targets, num_used, num_missing = {}, {}, {}, {}
    for name, in_manifest in manifests.items():
        used = _with_features(in_manifest, probed.stores)
        if len({utterance.emotion for utterance in used}) < 2:
            raise InputError(f"{name} must hold features of at least two emotions, found {len(used)} utterances")
        features[name], targets[name] = _stack(used, probed.stores), index_targets(used, labels)
        num_used[name], num_missing[name] = len(used), len(in_manifest) - len(used)
    scores = []
    layers = probed.layers or range(features["train"].shape[1])
    for i, layer in enumerate(layers):
        of_layer = {name: values[:, i] for name, values in features.items()}  # (N, D) by split
        metrics = _probe(of_layer, targets, labels)
        scores.append(LayerScore(layer, metrics.accuracy, metrics.macro_f1))
    return LayerReport(probed.stores[0].path, scores, num_used, num_missing)


@dataclass(frozen=True)
class _Probed:
    """Stores to probe: one of the time-means of all layers, or one of sequences per layer."""

    stores: Sequence[FeatureStore]
    layers: Sequence[Layer] = ()
    """The layer of each store of sequences; empty for a store of time-means."""


def _stores(
    selector: Selector,
    place: DataPlace,
    utterances: list[Utterance],
    settings: ExtractSettings,
    reporter: Reporter,
) -> _Probed:
    """Extract the time-means of all layers, or open the stores of imported features."""
    if not selector.is_imported:
        (result,) = extract_stream(utterances, selector, settings, reporter)
        return _Probed([FeatureStore(result.path)])
    infos = matching_stores(place.features_dir, replace(selector, layers=None))
    if not infos:
        raise not_extracted(place, selector.modality, selector)
    layers = sorted({info.identity.layer for info in infos}, key=lambda layer: (isinstance(layer, str), layer))
    stores = []
    for layer in layers:  # UsageError if several stores have one layer
        info = select_store(place, selector.modality, replace(selector, layers=(layer,)), None)
        stores.append(FeatureStore(info.path))
    stream = Stream(selector.modality, stores, place)
    stored = [one for one in utterances if one.utterance_id in stream]
    stream.inputs([one.utterance_id for one in stored])  # InputError if the layers have different inputs
    refuse_changed("train and valid", stored, {selector.modality: stream}, False, reporter)
    return _Probed(stores, layers)


def _with_features(utterances: Sequence[Utterance], stores: Sequence[FeatureStore]) -> list[Utterance]:
    """Return the utterances that have at least one frame in each store."""
    found = []
    for one in utterances:
        if all(one.utterance_id in store and store.num_frames(one.utterance_id) for store in stores):
            found.append(one)
    return found


def _stack(utterances: Sequence[Utterance], stores: Sequence[FeatureStore]) -> np.ndarray[Any, Any]:
    """Return the time-means of all layers (N, L, D) float32."""
    if stores[0].info.identity.layer == MEANS:
        means = [stores[0].check(utterance.utterance_id) for utterance in utterances]
        return np.stack(means).astype(np.float32)
    layers = []
    for store in stores:
        frames = [store.check(utterance.utterance_id) for utterance in utterances]
        layers.append(np.stack([values.mean(axis=0, dtype=np.float32) for values in frames]))
    return np.stack(layers, axis=1)


def _probe(
    features: Mapping[str, np.ndarray[Any, Any]], targets: Mapping[str, np.ndarray[Any, Any]], labels: Sequence[str]
) -> Metrics:
    """Fit standardisation and logistic regression on train (N, D); return the metrics on valid."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features["train"], targets["train"])
    predicted = model.predict_proba(features["valid"])  # (N, classes in train)
    probabilities = np.zeros((len(predicted), len(labels)))
    probabilities[:, model.classes_] = predicted  # a class without features is never predicted
    return compute_metrics(targets["valid"], probabilities, list(labels))
