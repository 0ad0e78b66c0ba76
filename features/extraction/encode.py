"""Encoding of batches: read and prepare utterances, and run a frozen encoder on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError
from features.encoders.base import Encoder
from features.encoders.finetuned import EVALUATION_SPLITS
from features.errors import InputError
from features.extraction.encoder_input import Input, input_key, input_source, read_input
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget
from features.ragged import Ragged
from features.store.mapped import Array
from features.store.part import StoredUtterance
from features.store.rejected import Rejection

ALWAYS_FITS_S = 30.0
"""Longer audio is rejected if it does not fit into memory. If shorter audio does not fit, the
extraction stops."""


@dataclass(frozen=True)
class EncodedBatch:
    """Features of one batch."""

    layers: list[list[StoredUtterance]]
    """For each layer the encoded utterances."""
    rejected: list[Rejection]
    """Utterances that cannot be read, do not fit into memory, or encode to NaN in any layer. No
    layer has them."""


def refuse_seen(utterances: Iterable[Utterance], encoder: Encoder) -> None:
    """Raise InputError if a fine-tuned encoder was trained on utterances of valid or test.

    Compares utterances whose id was seen, before anything is encoded. `encode_batch` compares all
    others by content.
    """
    if encoder.fine_tuning is None:
        return
    inputs = []
    for utterance in utterances:
        if utterance.split not in EVALUATION_SPLITS or utterance.utterance_id not in encoder.fine_tuning.seen:
            continue
        with suppress(AudioError):  # rejected later, with its reason
            inputs.append((utterance, read_input(utterance, encoder).input_sha256))
    encoder.fine_tuning.refuse_training_utterances(inputs)


def encode_batch(
    utterances: list[Utterance],
    encoder: Encoder,
    device: torch.device,
    dtype: np.dtype[Any],
    budget: MemoryBudget | None = None,
) -> EncodedBatch:
    """Read and encode one batch.

    `dtype` is the store's, `budget` limits the memory of the device. InputError if a value does not
    fit `dtype`, or if the encoder was trained on an utterance of valid or test.
    """
    inputs, rejected = _read(utterances, encoder)
    if encoder.fine_tuning is not None:
        encoder.fine_tuning.refuse_training_utterances((item.utterance, item.input_sha256) for item in inputs)
    stored: list[list[StoredUtterance]] = [[] for _ in encoder.layers]
    # one pass of the encoder gives the features of all layers
    encoded = encode([item.prepared for item in inputs], encoder, device, budget)
    for item, layers in zip(inputs, encoded, strict=True):
        name = item.utterance.utterance_id
        if layers is None:
            rejected.append(_too_long(item, encoder, device))
            continue
        _check_length(item, layers[0], encoder)
        # checked before the cast to fp16, whose overflow is a different error
        if not all(np.isfinite(features).all() for features in layers):
            detail = "the encoder output has NaN or infinity"
            rejected.append(Rejection(item.utterance, "non_finite_features", detail, _key(item, encoder)))
            continue
        source = item.source_json
        for features, chosen in zip(layers, stored, strict=True):
            values = _to_dtype(features, dtype, name)
            chosen.append(StoredUtterance(name, values, item.num_inputs, item.input_sha256, source))
    return EncodedBatch(stored, rejected)


def _check_length(item: Input, features: Array, encoder: Encoder) -> None:
    """Raise RuntimeError if the encoder's closed-form length is wrong: a bug of the encoder."""
    expected = int(encoder.get_feat_lengths(item.prepared.shape[0]))
    if features.shape[0] != expected:
        raise RuntimeError(
            f"{type(encoder).__name__}.get_feat_lengths must equal the output length, found "
            f"{expected} for {features.shape[0]} frames of {item.utterance.utterance_id!r}"
        )


def _read(utterances: Sequence[Utterance], encoder: Encoder) -> tuple[list[Input], list[Rejection]]:
    """Read a batch; reject utterances whose audio cannot be used.

    The source is taken before reading: a rejection must not name a file that changed meanwhile.
    """
    inputs: list[Input] = []
    rejected: list[Rejection] = []
    for utterance in utterances:
        source = input_source(utterance, encoder.modality)
        try:
            inputs.append(read_input(utterance, encoder, source))
        except AudioError as error:
            key = input_key(utterance, encoder.modality, source)
            rejected.append(Rejection(utterance, error.reason, str(error), key))
    return inputs, rejected


def _key(item: Input, encoder: Encoder) -> str:
    return input_key(item.utterance, encoder.modality, item.source)


def _too_long(item: Input, encoder: Encoder, device: torch.device) -> Rejection:
    """Return the rejection of an utterance that does not fit into memory alone.

    InputError if it is a transcript or short audio.
    """
    is_text, seconds = encoder.modality == "text", item.num_inputs / SAMPLE_RATE
    size = f"{item.num_inputs} characters" if is_text else f"{seconds:.1f} s of audio"
    if is_text or seconds <= ALWAYS_FITS_S:
        raise InputError(
            f"{device} has too little free memory for one utterance, "
            f"{item.utterance.utterance_id!r} of {size}; free some memory, or use another --device"
        )
    where = "the memory" if device.type == "cpu" else f"the memory of {device}"
    detail = f"{size} do not fit into {where}: cut it by start and end, or use another --device"
    return Rejection(item.utterance, "out_of_memory", detail, _key(item, encoder))


def encode(
    prepared: list[torch.Tensor], encoder: Encoder, device: torch.device, budget: MemoryBudget | None = None
) -> list[list[Array] | None]:
    """Encode prepared inputs: for each a float32 array (T, D) per layer, or None.

    A batch that does not fit into memory is halved, and `budget` remembers the size for later
    batches. None stands for an input that does not fit alone. Empty inputs give (0, D).
    """
    budget = budget or MemoryBudget(device)
    empty = [np.zeros((0, encoder.dim), np.float32) for _ in encoder.layers]
    results: list[list[Array] | None] = [empty] * len(prepared)
    nonempty, costs = [], []
    for i, item in enumerate(prepared):
        costs.append(float(encoder.get_padded_length(item.shape[0])))
        if item.shape[0]:
            nonempty.append(i)

    def compute(part: list[int]) -> list[list[Array]]:
        batch = Ragged.from_sequences([prepared[i] for i in part]).to(device)
        outputs = encoder.forward_layers(batch)
        return list(map(_on_host, outputs))

    with torch.inference_mode():
        # `run` yields the batch in parts that fit into memory
        for part, layers in budget.run(nonempty, costs, compute):
            for place, i in enumerate(part):
                results[i] = None if layers is None else [sequences[place] for sequences in layers]
    return results


def _on_host(output: Ragged) -> list[Array]:
    """Return the sequences (T_i, D) float32, with a single copy from the device."""
    values = output.values.float().cpu()
    return [sequence.numpy() for sequence in values.split(output.sizes)]


def _to_dtype(features: Array, dtype: np.dtype[Any], utterance_id: str) -> Array:
    """Cast features to the store's dtype; InputError if a value is too large for it."""
    # initial: the maximum of an empty array would raise
    peak = float(np.abs(features).max(initial=0.0))
    if peak > float(np.finfo(dtype).max):
        raise InputError(
            f"{utterance_id!r}: features must fit into fp16 (at most 65504), found {peak:.6g}; "
            "extract with --store-dtype fp32"
        )
    return features.astype(dtype)
