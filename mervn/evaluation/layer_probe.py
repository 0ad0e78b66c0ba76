"""Layer probe: which layer of an encoder to extract; a linear probe of the time-mean of each layer, scored on valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from features.encoders.selector import Layer, Selector
from features.errors import InputError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Reporter
from features.store.reader import FeatureStore
from mervn.data.stored_split import index_targets
from mervn.evaluation.metrics import Metrics, compute_metrics

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class LayerScore:
    """Scores on valid of a linear probe of one layer's time-mean."""

    layer: Layer
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class LayerReport:
    """The scores of all layers, in their order."""

    store: Path
    scores: list[LayerScore]
    n: Mapping[str, int]
    """Utterances by split."""
    missing: Mapping[str, int]
    """Utterances without features (no transcript, or rejected), by split."""

    @property
    def best(self) -> LayerScore:
        """The layer with the highest macro-F1 on valid; among equals the lowest."""
        return max(self.scores, key=lambda score: score.macro_f1)


def probe_layers(
    selector: Selector,
    data: Path,
    audio_root: Path | None,
    settings: ExtractSettings,
    reporter: Reporter,
) -> LayerReport:
    """Extract the time-mean of every layer of train and valid (kept, as any store) and probe each; test is not read."""
    manifests = read_manifests(data, SPLITS, audio_root=audio_root, check_audio=selector.modality == "audio")
    utterances = list(chain.from_iterable(manifests.values()))
    (result,) = extract_stream(utterances, selector, settings, reporter)
    store = FeatureStore(result.path)
    labels = sorted({str(utterance.emotion) for utterance in manifests["train"]})
    kept = {name: _with_features(some, store) for name, some in manifests.items()}
    for name, some in kept.items():
        if len({utterance.emotion for utterance in some}) < 2:
            raise InputError(f"{name} must hold features of at least two emotions, found {len(some)} utterances")
    features = {name: _stack(some, store) for name, some in kept.items()}
    targets = {name: index_targets(some, labels) for name, some in kept.items()}
    scores = []
    for layer in range(features["train"].shape[1]):
        metrics = _probe({name: values[:, layer] for name, values in features.items()}, targets, labels)
        scores.append(LayerScore(layer, metrics.accuracy, metrics.macro_f1))
    return LayerReport(
        store.path,
        scores,
        {name: len(some) for name, some in kept.items()},
        {name: len(manifests[name]) - len(some) for name, some in kept.items()},
    )


def _with_features(utterances: Sequence[Utterance], store: FeatureStore) -> list[Utterance]:
    return [u for u in utterances if u.utterance_id in store and len(store[u.utterance_id])]


def _stack(utterances: Sequence[Utterance], store: FeatureStore) -> np.ndarray[Any, Any]:
    """Return the time-means of every layer (N, L, D) float32."""
    return np.stack([store.check(u.utterance_id) for u in utterances]).astype(np.float32)


def _probe(
    features: Mapping[str, np.ndarray[Any, Any]], targets: Mapping[str, np.ndarray[Any, Any]], labels: Sequence[str]
) -> Metrics:
    """Return the metrics on valid of a logistic regression on standardised features, both fitted on train alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features["train"], targets["train"])
    found = model.predict_proba(features["valid"])
    probabilities = np.zeros((len(found), len(labels)))
    probabilities[:, model.classes_] = found  # a class without features is never predicted
    return compute_metrics(targets["valid"], probabilities, list(labels))
