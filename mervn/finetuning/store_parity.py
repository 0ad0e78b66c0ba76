"""Parity check before fine-tuning: live encoders must reproduce the stored features.

The check compares stage by stage: encoders, inputs, lengths, features and logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.canonical import differing_fields
from features.device import precision_context
from features.encoders.base import Encoder
from features.errors import InputError
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.ragged import Ragged
from mervn.data.split import BatchRequest
from mervn.data.streams import Stream
from mervn.data.waveform_split import WaveformSplit
from mervn.model.end_to_end import EndToEnd, encode_inputs

UTTERANCES = 32
"""Number of utterances of valid whose features and logits are compared.

They cover all lengths. Inputs are compared for all utterances."""
BATCH = 8
LOGIT_TOLERANCE = 1e-4
FEATURE_TOLERANCES = {"fp16": 2e-3, "fp32": 1e-4, "bf16": 2e-2}
"""Maximum difference of a feature, by the precision that limits it.

It is relative to the largest feature of the utterance."""


@dataclass(frozen=True)
class Parity:
    """Result of a parity check: number of utterances and maximum differences."""

    utterances: int
    features: dict[str, float]
    """By stream, the maximum difference of a feature, relative to its utterance's largest one."""
    logits: float | None
    """Maximum difference of a logit.

    None if the stored features were computed in bf16: there is no tolerance for these."""
    raw_logits: float
    """Maximum difference of a logit if live features are not rounded to the store's dtype."""


def check_parity(
    model: EndToEnd,
    streams: Mapping[str, Stream],
    splits: Mapping[str, WaveformSplit],
    device: torch.device,
    reporter: Reporter,
) -> Parity:
    """Compare encoders, inputs, lengths, features and logits with the stores.

    InputError names the first stage that differs.
    """
    _check_sources(model, streams, splits)
    reporter.say("parity: encoders, input hashes and lengths match the stores")
    split = splits["valid"]
    chosen = _spread_over_lengths(split)
    plan = [BatchRequest(chosen[i : i + BATCH]) for i in range(0, len(chosen), BATCH)]
    features, logits, raw = dict.fromkeys(streams, 0.0), 0.0, 0.0  # maxima over all batches
    model.eval()
    for batch in split.batches(plan, device):
        inputs = batch.inputs()
        ids = [split.utterances[i].utterance_id for i in batch.indices]
        stored: dict[str, Ragged] = {}
        live: dict[str, Ragged] = {}
        with torch.inference_mode():
            for name, stream in streams.items():
                stored[name] = _stored(stream, ids).to(device)
                live[name] = _live(model, name, inputs[name], stream, device)
                features[name] = _largest(features[name], _difference(live[name], stored[name]))
            # The head computes in fp32 here, whatever precision the encoders use.
            with precision_context(device, "fp32"):
                expected = model.head(stored)  # (B, C)
                logits = _largest(logits, _max_difference(model.head(live), expected))
                raw = _largest(raw, _max_difference(model(inputs), expected))
    precisions = {stream.first.info.identity.encoder_precision for stream in streams.values()}
    parity = Parity(len(chosen), features, None if "bf16" in precisions else logits, raw)
    _check_tolerances(parity, streams)
    reporter.say(_within_tolerance(parity, streams))
    return parity


def _check_sources(model: EndToEnd, streams: Mapping[str, Stream], splits: Mapping[str, WaveformSplit]) -> None:
    """Compare encoders, inputs and lengths with those of the stores."""
    for name, stream in streams.items():
        _check_encoder(model.encoder(name), stream)
        for split in splits.values():
            _check_inputs(name, stream, split)


def _spread_over_lengths(split: WaveformSplit) -> list[int]:
    """Return indices of at most UTTERANCES utterances, evenly spaced in the order of lengths."""
    order = np.argsort(np.array(list(split.lengths.values())).sum(0), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(UTTERANCES, len(order))).round().astype(int))
    chosen: list[int] = order[places].tolist()
    return chosen


def _check_encoder(encoder: Encoder, stream: Stream) -> None:
    """Raise InputError if a live encoder is not the one that the store was extracted with."""
    identity = stream.first.info.identity
    live = {
        "weights_sha256": encoder.weights_sha256,
        "config": encoder.config,
        "numerics_version": encoder.numerics_version,
    }
    stored = {key: getattr(identity, key) for key in live}
    differing = differing_fields(stored, live)
    if differing:
        message = f"parity fails at the encoder: {stream.name} of {stream.first.path} was extracted with another one:"
        for key, (before, after) in differing.items():
            message += f"\n  {key}: stored {before!r}, live {after!r}"
        raise InputError(message)


def _check_inputs(name: str, stream: Stream, split: WaveformSplit) -> None:
    """Raise InputError if a store lacks an utterance, or has another input or length for it."""
    hashes, lengths = split.stream_sha256(name), split.lengths[name]
    for utterance in split.utterances:
        if utterance.utterance_id not in stream:
            raise InputError(
                f"parity fails at the inputs: {_place(utterance)} is not in {stream.first.path}; extract it:\n"
                f"  {stream.extract_command()}"
            )
    stored = stream.inputs([utterance.utterance_id for utterance in split.utterances])[0]
    for i, utterance in enumerate(split.utterances):
        place = _place(utterance)
        if stored.input_sha256[i].decode() != hashes[i]:
            raise InputError(
                f"parity fails at the input hash: {place} has another {stream.modality} than "
                f"{stream.first.path} was made from:\n  {stream.extract_command('--update')}"
            )
        if stored.lengths[i] != lengths[i]:
            raise InputError(
                f"parity fails at the lengths: {place} has {lengths[i]} frames live, {stored.lengths[i]} in the store"
            )


def _place(utterance: Utterance) -> str:
    """Return where an utterance is in the manifest, for messages."""
    return f"{utterance.file}:{utterance.line} {utterance.utterance_id!r}"


def _stored(stream: Stream, ids: list[str]) -> Ragged:
    """Return stored features (sum T, D) float32 of utterances; (sum T, L, D) for several layers."""
    sequences = []
    for utterance_id in ids:
        layers = []
        for store in stream.stores:
            layers.append(torch.from_numpy(np.array(store[utterance_id], np.float32)))  # (T, D)
        sequences.append(torch.stack(layers, dim=1) if len(layers) > 1 else layers[0])
    return Ragged.from_sequences(sequences)


def _live(model: EndToEnd, name: str, inputs: Ragged, stream: Stream, device: torch.device) -> Ragged:
    """Return live features, in float32.

    They are computed in the store's encoder precision and rounded to its dtype.
    """
    identity = stream.first.info.identity
    with precision_context(device, identity.encoder_precision):
        live = encode_inputs(model.encoder(name), inputs)
    dtype = torch.float16 if identity.store_dtype == "fp16" else torch.float32
    return live.replace(live.values.to(dtype).float())


def _difference(live: Ragged, stored: Ragged) -> float:
    """Return the maximum difference of a feature, relative to the largest of its utterance."""
    differences = [0.0]
    for of_live, of_stored in zip(live.split(), stored.split(), strict=True):
        if of_stored.numel():
            scale = of_stored.abs().max().clamp(min=1e-12)
            differences.append(float((of_live - of_stored).abs().max() / scale))
    return _largest(*differences)


def _largest(*values: float) -> float:
    """Return the maximum, or NaN if any value is NaN: Python's `max(0.0, nan)` is 0.0."""
    return float(np.max(values))


def _max_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the maximum absolute difference of logits (B, C)."""
    return float((logits - expected).abs().max())


def _tolerance(stream: Stream) -> float:
    """Return the maximum relative difference of features of a stream."""
    identity = stream.first.info.identity
    return FEATURE_TOLERANCES["bf16" if identity.encoder_precision == "bf16" else identity.store_dtype]


def _within_tolerance(parity: Parity, streams: Mapping[str, Stream]) -> str:
    """Return the message of a check that passed."""
    lines = [f"parity: live features match the stores within tolerance ({parity.utterances} utterances of valid)"]
    for name, value in parity.features.items():
        lines.append(
            f"  {name}: maximum difference {value:.1e} of the utterance's largest feature "
            f"(at most {_tolerance(streams[name]):.0e})"
        )
    if parity.logits is None:
        lines.append("  logits: not compared, because the stored features were computed in bf16")
    else:
        lines.append(f"  logits: maximum difference {parity.logits:.1e} (at most {LOGIT_TOLERANCE:.0e})")
    lines.append(f"  logits without rounding live features to the store's dtype: difference {parity.raw_logits:.1e}")
    return "\n".join(lines)


def _check_tolerances(parity: Parity, streams: Mapping[str, Stream]) -> None:
    """Raise InputError for the first stage that exceeds its tolerance."""
    for name, value in parity.features.items():
        tolerance = _tolerance(streams[name])
        if not value <= tolerance:  # `not <=` holds for NaN
            raise InputError(
                f"parity fails at the features: {name} differ by {value:.2e} of the largest (at "
                f"most {tolerance:.0e}) from {streams[name].first.path}; extract again on this machine"
            )
    if parity.logits is not None and not parity.logits <= LOGIT_TOLERANCE:
        raise InputError(
            f"parity fails at the logits: they differ by {parity.logits:.2e}, at most {LOGIT_TOLERANCE:.0e}"
        )
