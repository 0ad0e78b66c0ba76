"""Do live encoders give what the store holds? Asked before the first step of fine-tuning, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.canonical import differing_fields
from features.device import computing
from features.encoders.base import Encoder
from features.errors import InputError
from features.ragged import Ragged
from mervn.data.streams import Stream
from mervn.data.waveform_split import LiveSplit
from mervn.model.end_to_end import EndToEnd, encode_live

UTTERANCES = 32
"""Of valid, spread over their lengths, whose features and logits are compared; inputs and lengths are of all."""
BATCH = 8
LOGITS = 1e-4
FEATURES = {"fp16": 2e-3, "fp32": 1e-4, "bf16": 2e-2}
"""Greatest difference over the greatest feature of an utterance, by the store's dtype, or bf16 as it was computed."""


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart it was."""

    utterances: int
    features: dict[str, float]
    """By stream the greatest difference of a feature, over the greatest feature of its utterance."""
    logits: float | None
    """Greatest difference of a logit; None for encoders that computed in bf16, whose logits have no bound."""
    raw_logits: float
    """The same with live features in fp32, not rounded as the store's are."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def check_parity(
    model: EndToEnd,
    streams: Mapping[str, Stream],
    splits: Mapping[str, LiveSplit],
    device: torch.device,
    say: Callable[[str], None],
) -> Parity:
    """Compare inputs, lengths, features and logits with the cache; InputError names the stage that differs."""
    for name, stream in streams.items():
        _check_encoder(model.encoder(name), stream)
        for split in splits.values():
            _check_inputs(name, stream, split)
    say("parity: encoders, input hashes and lengths are those of the stores")
    split = splits["valid"]
    order = np.argsort(np.array(list(split.rows.values())).sum(0), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(UTTERANCES, len(order))).round().astype(int))].tolist()
    batches = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
    features, logits, raw = dict.fromkeys(streams, 0.0), 0.0, 0.0
    model.eval()
    split.expect(batches)
    for batch in batches:
        inputs = split.batch(batch, device)
        ids = [split.utterances[i].utterance_id for i in batch]
        cached = {name: _cached(stream, ids).to(device) for name, stream in streams.items()}
        with torch.inference_mode():
            live = {name: _live(model, name, inputs[name], stream, device) for name, stream in streams.items()}
            with computing(device, "fp32"):
                wanted = model.head(dict(cached))
                logits = max(logits, float((model.head(dict(live)) - wanted).abs().max()))
                raw = max(raw, float((model(inputs) - wanted).abs().max()))
        for name in streams:
            features[name] = max(features[name], _difference(live[name], cached[name]))
    bf16 = any(stream.first.info.identity["encoder_precision"] == "bf16" for stream in streams.values())
    found = Parity(len(chosen), features, None if bf16 else logits, raw)
    _judge(found, streams)
    say(_within_tolerance(found, streams))
    return found


def _check_encoder(encoder: Encoder, stream: Stream) -> None:
    identity = stream.first.info.identity
    now = {"weights_sha256": encoder.weights_sha256, "config": encoder.config,
           "numerics_version": encoder.numerics_version}  # fmt: skip
    differing = differing_fields({key: identity[key] for key in now}, now)
    if differing:
        lines = [f"  {key}: the store {before!r}, live {after!r}" for key, (before, after) in differing.items()]
        raise InputError(
            f"parity fails at the encoder: {stream.name} of {stream.first.path} came from another:\n" + "\n".join(lines)
        )


def _check_inputs(name: str, stream: Stream, split: LiveSplit) -> None:
    rows = split.rows[name]
    for utterance, sha256, size in zip(split.utterances, split.input_sha256(name), rows, strict=True):
        place = f"{utterance.file}:{utterance.line} {utterance.utterance_id!r}"
        if utterance.utterance_id not in stream:
            raise InputError(
                f"parity fails at the inputs: {place} is not in {stream.first.path}; extract it:\n"
                f"  {stream.extract_command()}"
            )
        info = stream.utterance_info(utterance.utterance_id)
        if info.input_sha256 != sha256:
            raise InputError(
                f"parity fails at the input hash: {place} has another {stream.modality} than {stream.first.path} was "
                f"made from:\n  {stream.extract_command('--update')}"
            )
        if info.length != size:
            raise InputError(f"parity fails at the lengths: {place} has {size} rows live, {info.length} in the store")


def _cached(stream: Stream, ids: list[str]) -> Ragged:
    """Return the stored features of some utterances, float32."""
    layers = [[torch.from_numpy(np.array(store[i], np.float32)) for i in ids] for store in stream.stores]
    rows = [torch.stack(some, dim=1) if len(some) > 1 else some[0] for some in zip(*layers, strict=True)]
    return Ragged.from_sequences(rows)


def _live(model: EndToEnd, name: str, inputs: Ragged, stream: Stream, device: torch.device) -> Ragged:
    """Return live features at the store's encoder precision, rounded through its dtype, float32."""
    identity = stream.first.info.identity
    with computing(device, str(identity["encoder_precision"])):
        live = encode_live(model.encoder(name), inputs)
    kind = torch.float16 if identity["store_dtype"] == "fp16" else torch.float32
    return live.replace(live.values.to(kind).float())


def _difference(live: Ragged, cached: Ragged) -> float:
    pairs = zip(live.split(), cached.split(), strict=True)
    return max((_relative(a, b) for a, b in pairs if b.numel()), default=0.0)


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def _within_tolerance(found: Parity, streams: Mapping[str, Stream]) -> str:
    """Return the message about the figures of a comparison that passed."""
    lines = [f"parity: live features are those of the stores, within tolerance ({found.utterances} valid utterances)"]
    for name, value in found.features.items():
        identity = streams[name].first.info.identity
        bound = FEATURES["bf16" if identity["encoder_precision"] == "bf16" else str(identity["store_dtype"])]
        lines.append(
            f"  {name}: largest difference {value:.1e} of the utterance's largest feature (at most {bound:.0e})"
        )
    if found.logits is None:
        lines.append("  logits: not compared, for the stored features were computed in bf16")
    else:
        lines.append(f"  logits: largest difference {found.logits:.1e} (at most {LOGITS:.0e})")
    lines.append(f"  logits from live features that are not rounded as the stored ones: {found.raw_logits:.1e} away")
    return "\n".join(lines)


def _judge(found: Parity, streams: Mapping[str, Stream]) -> None:
    """Raise InputError where a stage is over its tolerance."""
    for name, value in found.features.items():
        identity = streams[name].first.info.identity
        kind = "bf16" if identity["encoder_precision"] == "bf16" else str(identity["store_dtype"])
        if not value <= FEATURES[kind]:
            raise InputError(
                f"parity fails at the features: {name} differ by {value:.2e} of the greatest (at most "
                f"{FEATURES[kind]:.0e}) from {streams[name].first.path}; extract again on this machine"
            )
    if found.logits is not None and not found.logits <= LOGITS:
        raise InputError(f"parity fails at the logits: they differ by {found.logits:.2e}, at most {LOGITS:.0e}")
