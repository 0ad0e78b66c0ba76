"""Running a frozen encoder over a batch of utterances, on a device and in a precision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from features.audio.segment import AudioError
from features.encoders.base import Encoder
from features.encoders.finetuned import EVALUATION_SPLITS
from features.errors import InputError
from features.extraction.encoder_input import SAMPLE_RATE, Input, input_key, input_source, read_input
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget
from features.ragged import Ragged
from features.store.mapped import Array
from features.store.part import StoredUtterance
from features.store.rejected import Rejection

ALWAYS_FITS_S = 30.0
"""Longer audio that does not fit into memory alone is rejected; if shorter audio does not fit, the memory is in use."""


def refuse_seen(utterances: Iterable[Utterance], encoder: Encoder) -> None:
    """Raise InputError where a fine-tuned encoder saw utterances of valid or test, before anything is encoded.

    Those of known ids are compared here by content; audio that it saw under another id is met while encoding.
    """
    if encoder.fine_tuning is None:
        return
    known = [u for u in utterances if u.split in EVALUATION_SPLITS and u.utterance_id in encoder.fine_tuning.seen]
    inputs = []
    for utterance in known:
        with suppress(AudioError):  # rejected later, with its reason
            inputs.append((utterance, read_input(utterance, encoder).input_sha256))
    encoder.fine_tuning.refuse_training_utterances(inputs)


def encode_batch(
    utterances: list[Utterance],
    encoder: Encoder,
    device: torch.device,
    dtype: np.dtype[Any],
    budget: MemoryBudget | None = None,
) -> tuple[list[list[StoredUtterance]], list[Rejection]]:
    """Read and encode one batch into rows for each layer, and what was rejected, with its reason.

    What cannot be read, does not fit into memory or encodes to NaN in any layer has no row in any of them.
    """
    inputs, rejected = _read(utterances, encoder)
    if encoder.fine_tuning is not None:
        encoder.fine_tuning.refuse_training_utterances((item.utterance, item.input_sha256) for item in inputs)
    rows: list[list[StoredUtterance]] = [[] for _ in encoder.layers]
    for item, layers in zip(inputs, encode([item.prepared for item in inputs], encoder, device, budget), strict=True):
        if layers is None:
            rejected.append(_too_long(item, encoder, device))
            continue
        expected = int(encoder.get_feat_lengths(item.prepared.shape[0]))
        if layers[0].shape[0] != expected:
            found = f"{layers[0].shape[0]} rows of {item.utterance.utterance_id!r}"
            raise RuntimeError(f"{type(encoder).__name__}.get_feat_lengths promised {expected}, found {found}")
        if not all(np.isfinite(features).all() for features in layers):
            detail = "the encoder gave NaN or infinity"
            rejected.append(Rejection(item.utterance, "non_finite_features", detail, _key(item, encoder)))
            continue
        source = json.dumps(item.source)
        for features, chosen in zip(layers, rows, strict=True):
            values = _to_dtype(features, dtype, item.utterance.utterance_id)
            chosen.append(
                StoredUtterance(item.utterance.utterance_id, values, item.num_inputs, item.input_sha256, source)
            )
    return rows, rejected


def _read(utterances: Sequence[Utterance], encoder: Encoder) -> tuple[list[Input], list[Rejection]]:
    """Read a batch; a rejection names the input as it was before it was read, for a file may change meanwhile."""
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
    """Return the rejection of an utterance that does not fit into memory alone; InputError if it is not even long."""
    where = "the memory" if device.type == "cpu" else f"the memory of {device}"
    seconds = item.num_inputs / SAMPLE_RATE
    if encoder.modality == "text" or seconds <= ALWAYS_FITS_S:
        size = f"{item.num_inputs} characters" if encoder.modality == "text" else f"{seconds:.1f} s of audio"
        raise InputError(
            f"{device} has too little memory for one utterance, {item.utterance.utterance_id!r} of {size}; "
            "free some, or use another --device"
        )
    detail = f"{seconds:.1f} s of audio do not fit into {where}: cut it by start and end, or use another --device"
    return Rejection(item.utterance, "out_of_memory", detail, _key(item, encoder))


def encode(
    prepared: list[torch.Tensor], encoder: Encoder, device: torch.device, budget: MemoryBudget | None = None
) -> list[list[Array] | None]:
    """Encode prepared inputs: for each a float32 array (T, D) per layer, or None if it does not fit into memory alone.

    A batch that does not fit is halved; `budget` remembers it for later batches. Empty inputs give arrays (0, D).
    """
    budget = budget or MemoryBudget(device)
    empty = [np.zeros((0, encoder.dim), np.float32) for _ in encoder.layers]
    results: list[list[Array] | None] = [list(empty) for _ in prepared]
    spoken = [i for i, item in enumerate(prepared) if item.shape[0]]
    costs = [float(encoder.get_padded_length(item.shape[0])) for item in prepared]

    def compute(part: list[int]) -> list[list[Array]]:
        outputs = encoder.forward_layers(Ragged.from_sequences([prepared[i] for i in part]).to(device))
        return [_on_host(output) for output in outputs]

    with torch.inference_mode():
        for part, layers in budget.run(spoken, costs, compute):
            for place, i in enumerate(part):
                results[i] = None if layers is None else [sequences[place] for sequences in layers]
    return results


def _on_host(output: Ragged) -> list[Array]:
    """Return the sequences (T_i, D) float32, after one copy from the device for all of them."""
    values = output.values.float().cpu()
    return [sequence.numpy() for sequence in values.split(output.sizes)]


def _to_dtype(features: Array, dtype: np.dtype[Any], utterance_id: str) -> Array:
    greatest = float(np.abs(features).max(initial=0.0))
    if greatest > float(np.finfo(dtype).max):
        raise InputError(
            f"{utterance_id!r}: features must fit into fp16 (at most 65504), found {greatest:.6g}; "
            "extract with --store-dtype fp32"
        )
    return features.astype(dtype)
