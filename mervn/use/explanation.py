"""Explanations: attention weights of one input, and the contribution of each modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError
from features.device import exact_fp32
from features.text.normalize import normalize_text
from mervn.data.streams import modality_of
from mervn.evaluation.attention import UtteranceAttention, has_attention, utterance_attention
from mervn.use.clips import Clip
from mervn.use.scoring import Features, Scorer, join

Array = np.ndarray[Any, Any]
ENVELOPE_PARTS = 600
"""Number of parts of the waveform whose lowest and highest sample is kept."""


@dataclass(frozen=True)
class Explanation:
    """Attention weights and contributions of one input; everything that its page shows."""

    probabilities: Mapping[str, float]
    """By label, in the order of the model."""
    without: Mapping[str, Mapping[str, float]]
    """By modality, `text` or `audio`, the probabilities if it is withheld; empty if only one is given."""
    envelope: Array
    """(2, P) float32: lowest and highest sample of each of P parts of the waveform; P = 0 without audio."""
    seconds: float
    """Duration of the audio; 0 without audio."""
    attention: UtteranceAttention | None
    """Weights of cross-attention and attentive pooling; None if the head has neither."""
    tokens: Sequence[str] | None
    """The text of each token; None if the text encoder gives none."""
    stride_s: float | None
    """Seconds from one audio frame to the next; None without audio."""
    token_weights: Array | None
    """(Tt,) weight of each token; None without text or attention. See `source`."""
    frame_weights: Array | None
    """(Ta,) weight of each audio frame; None without audio or attention."""
    source: str | None
    """The weights that `token_weights` and `frame_weights` are: pooling, or cross-attention."""

    @property
    def prediction(self) -> str:
        """The label of the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    def contribution(self, modality: str) -> float | None:
        """Return how much the probability of the predicted label falls without a modality; None if unknown."""
        if modality not in self.without:
            return None
        return self.probabilities[self.prediction] - self.without[modality][self.prediction]


def explain(scorer: Scorer, clip: Clip) -> Explanation:
    """Explain the prediction for one clip; raises AudioError if its audio cannot be used."""
    model = scorer.model
    (features,) = scorer.features([clip])
    if isinstance(features, AudioError):
        raise features
    given = [name for name in model.modalities if any(_has_frames(features, name))]
    variants = [features, *(withhold(features, name) for name in given if len(given) > 1)]
    scores = [dict(zip(model.labels, one.tolist(), strict=True)) for one in scorer.classify(variants)]
    attention = None
    if has_attention(model.head):
        with exact_fp32(), torch.inference_mode():
            attention = utterance_attention("", model.head, join([features]))
    token_weights, frame_weights, source = _weights(attention, given)
    samples = clip.samples(scorer.reader) if "audio" in given else np.zeros(0, np.float32)
    return Explanation(
        probabilities=scores[0],
        without=dict(zip(given, scores[1:], strict=False)),
        envelope=envelope(samples),
        seconds=len(samples) / SAMPLE_RATE,
        attention=attention,
        tokens=_tokens(scorer, clip, features),
        stride_s=model.stride_s,
        token_weights=token_weights,
        frame_weights=frame_weights,
        source=source,
    )


def withhold(features: Features, modality: str) -> Features:
    """Return the features of one clip with empty streams of a modality."""
    return {name: values[:0] if modality_of(name) == modality else values for name, values in features.items()}


def envelope(samples: Array) -> Array:
    """Return the lowest and the highest sample (2, P) of each of at most `ENVELOPE_PARTS` equal parts."""
    count = min(ENVELOPE_PARTS, len(samples))
    if not count:
        return np.zeros((2, 0), np.float32)
    starts = np.arange(count) * len(samples) // count
    return np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])


def _has_frames(features: Features, modality: str) -> list[bool]:
    """Tell for each stream of a modality whether it has frames."""
    return [len(values) > 0 for name, values in features.items() if modality_of(name) == modality]


def _tokens(scorer: Scorer, clip: Clip, features: Features) -> list[str] | None:
    """Return the text of each token of the features; None without text or without their texts."""
    encoder = scorer.model.text_encoder
    if encoder is None or not len(features["text"]):
        return None
    texts = encoder.token_texts(normalize_text(clip.text or ""))
    return texts if texts is not None and len(texts) == len(features["text"]) else None


def _weights(
    attention: UtteranceAttention | None, given: Sequence[str]
) -> tuple[Array | None, Array | None, str | None]:
    """Return one weight per token, one per audio frame, and the attention that they come from.

    Attentive pooling has a weight for each. Otherwise they are the mean cross-attention that the
    other modality pays to them in the last block.
    """
    if attention is None:
        return None, None, None
    found: dict[str, Array] = {}
    for modality in ("text", "audio"):
        parts = [pooling.parts[modality] for pooling in attention.pooling if modality in pooling.parts]
        if parts and modality in given:
            found[modality] = np.mean(parts, axis=0)
    if found:
        return found.get("text"), found.get("audio"), "attentive pooling"
    for cross in attention.cross:  # the last block comes last
        modality = "audio" if cross.name.endswith("text_to_audio") else "text"
        if modality in given:
            found[modality] = cross.weights.mean(0)
    return found.get("text"), found.get("audio"), "cross-attention" if found else None
