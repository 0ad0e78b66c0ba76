"""Attention weights of a trained head for single utterances: cross-attention and attentive pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.device import exact_fp32
from features.errors import InputError, UsageError
from features.ragged import Ragged
from mervn.data.split import read_batch
from mervn.evaluation.open_run import OpenedRun
from mervn.model.end_to_end import EndToEnd
from mervn.model.head import Head
from mervn.model.pooling import AttentivePooling

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-4
"""Largest difference of a probability from the saved one: batches of another size round differently."""


@dataclass(frozen=True)
class CrossMap:
    """Cross-attention of one utterance, as the mean over the heads."""

    name: str
    """Block and direction, such as `text_to_audio`: text queries, audio keys."""
    weights: Array
    """(Tq, Tk) float64; each query's weights over the real keys sum to 1."""


@dataclass(frozen=True)
class PoolingMap:
    """Weights of attentive pooling of one utterance over one output sequence of the fusion."""

    parts: Mapping[str, Array]
    """By modality, the weights (T,) float64 of its frames; all parts together sum to 1."""


@dataclass(frozen=True)
class UtteranceAttention:
    """Attention weights of one utterance, over its real tokens and frames only."""

    utterance_id: str
    cross: Sequence[CrossMap]
    pooling: Sequence[PoolingMap]
    sizes: Mapping[str, int]
    """Number of stored frames or tokens, by stream; 0 for a missing modality, which has one learned frame."""


def read_attention(opened: OpenedRun, probabilities: Mapping[str, Mapping[str, float]]) -> list[UtteranceAttention]:
    """Return the attention weights of utterances of an opened run, one at a time.

    probabilities: by utterance id, the saved probability of each label. Raises UsageError if the
    head has no attention. Raises InputError if an utterance is missing, or if the model does not
    give its saved probabilities.
    """
    model = opened.loaded.model.to(opened.device).eval()
    head = model.head if isinstance(model, EndToEnd) else model
    if not isinstance(head, Head) or not has_attention(head):
        raise UsageError(
            f"{opened.run} must have cross-attention or --pooling attn to show attention, found the fusion "
            f"{opened.config.options['fusion']} with the pooling {opened.config.options['pooling']}"
        )
    index = {utterance.utterance_id: number for number, utterance in enumerate(opened.split.utterances)}
    found = []
    with exact_fp32(), torch.inference_mode():
        for name, saved in probabilities.items():
            if name not in index:
                raise InputError(f"{opened.data} must hold {name!r} of {opened.split.name}, but it has no features")
            inputs = read_batch(opened.split, [index[name]], opened.device).inputs()
            features = model.encode(inputs)
            _require_saved(name, head(features), [saved[label] for label in opened.config.labels])
            found.append(utterance_attention(name, head, features))
    return found


def has_attention(head: Head) -> bool:
    """Tell whether a head has cross-attention that returns its weights, or attentive pooling."""
    pools = any(isinstance(pooling, AttentivePooling) for pooling in head.poolings)
    return pools or hasattr(head.fusion, "attention_weights")


def _require_saved(name: str, logits: Tensor, saved: Sequence[float]) -> None:
    """Raise InputError unless logits (1, C) give the saved probabilities of an utterance."""
    found = logits.double().softmax(-1)[0].cpu().numpy()
    difference = float(np.abs(found - np.array(saved)).max())
    if difference > TOLERANCE:
        raise InputError(
            f"the model must give the saved probabilities of {name!r}, but one differs by {difference:.2g}: "
            "the features or the weights have changed; evaluate the run again"
        )


def utterance_attention(name: str, head: Head, features: Mapping[str, Ragged]) -> UtteranceAttention:
    """Return the attention weights of one utterance from its features, (T, D) by stream."""
    sizes = {stream: int(ragged.sizes[0]) for stream, ragged in features.items()}
    projected = head.project(features)
    cross = []
    if hasattr(head.fusion, "attention_weights"):
        by_direction: dict[str, list[Tensor]] = head.fusion.attention_weights(projected)  # type: ignore[operator]
        for direction, weights in by_direction.items():
            mean = weights[0].double().mean(0).cpu().numpy()  # (Tq, Tk)
            if mean.size:
                cross.append(CrossMap(direction, mean))
    pooling = []
    lengths = {modality: ragged.sizes[0] for modality, ragged in projected.items()}
    for layer, sequence, lead in zip(head.poolings, head.fusion(projected), head.leads, strict=True):
        if isinstance(layer, AttentivePooling) and sequence.total:
            of_frames = layer.weights(sequence).double().squeeze(1).cpu().numpy()  # (T,)
            pooling.append(PoolingMap(_parts(of_frames, lengths, lead)))
    return UtteranceAttention(name, cross, pooling, sizes)


def _parts(weights: Array, lengths: Mapping[str, int], lead: str) -> dict[str, Array]:
    """Return weights (T,) by modality: a fused sequence is text, then audio; others are one modality."""
    if len(weights) == lengths.get(lead):
        return {lead: weights}
    if len(weights) == sum(lengths.values()) and set(lengths) == {"text", "audio"}:
        return {"text": weights[: lengths["text"]], "audio": weights[lengths["text"] :]}
    return {"fused": weights}
