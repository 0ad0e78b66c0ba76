"""Running a frozen encoder over a batch of utterances, on a device and in a precision."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from features.audio import AudioError
from features.encoders.base import Encoder
from features.errors import InputError
from features.inputs import Input, read_input
from features.manifest import Utterance
from features.ragged import Ragged
from features.store.mapped import Array
from features.store.part import Row
from features.store.rejected import Rejection
from features.tuned import UNSEEN_SPLITS


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` takes a GPU if torch sees one. InputError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"--device must be a device that torch can use here, found {name!r}: {first}") from error
    return device


def refuse_seen(utterances: Iterable[Utterance], encoder: Encoder) -> None:
    """Raise InputError where a fine-tuned encoder saw utterances of valid or test, before anything is encoded.

    Those of known ids are compared here by content; audio that it saw under another id is met while encoding.
    """
    if encoder.tuned is None:
        return
    known = [u for u in utterances if u.split in UNSEEN_SPLITS and u.utterance_id in encoder.tuned.seen]
    inputs = []
    for utterance in known:
        with suppress(AudioError):  # rejected later, with its reason
            inputs.append((utterance, read_input(utterance, encoder).input_sha256))
    encoder.tuned.refuse_seen(inputs)


def encode_batch(
    utterances: list[Utterance], encoder: Encoder, device: torch.device, dtype: np.dtype[Any]
) -> tuple[list[list[Row]], list[Rejection]]:
    """Read and encode one batch into rows for each layer, and what was rejected, with its reason.

    What cannot be read, and what encodes to NaN in any layer, has no row in any of them.
    """
    inputs: list[Input] = []
    rejected: list[Rejection] = []
    for utterance in utterances:
        try:
            inputs.append(read_input(utterance, encoder))
        except AudioError as error:
            rejected.append((utterance, error.reason, str(error)))
    if encoder.tuned is not None:
        encoder.tuned.refuse_seen((item.utterance, item.input_sha256) for item in inputs)
    layers = encode([item.prepared for item in inputs], encoder, device)
    rows: list[list[Row]] = [[] for _ in layers]
    for i, item in enumerate(inputs):
        expected = int(encoder.get_feat_lengths(item.prepared.shape[0]))
        if layers[0][i].shape[0] != expected:
            found = f"{layers[0][i].shape[0]} rows of {item.utterance.utterance_id!r}"
            raise RuntimeError(f"{type(encoder).__name__}.get_feat_lengths promised {expected}, found {found}")
        if not all(np.isfinite(features[i]).all() for features in layers):
            rejected.append((item.utterance, "non_finite_features", "the encoder gave NaN or infinity"))
            continue
        for features, chosen in zip(layers, rows, strict=True):
            values = _to_dtype(features[i], dtype, item.utterance.utterance_id)
            source = json.dumps(item.source)
            chosen.append(Row(item.utterance.utterance_id, values, item.num_inputs, item.input_sha256, source))
    return rows, rejected


def encode(prepared: list[torch.Tensor], encoder: Encoder, device: torch.device) -> list[list[Array]]:
    """Encode prepared inputs: for each layer a list of float32 arrays (T_i, D), empty ones into no rows.

    A full GPU halves the batch.
    """
    results = [[np.zeros((0, encoder.dim), np.float32) for _ in prepared] for _ in encoder.layers]
    spoken = [i for i, item in enumerate(prepared) if item.shape[0]]
    if not spoken:
        return results
    try:
        with torch.inference_mode():
            outputs = encoder.forward_layers(Ragged.from_sequences([prepared[i] for i in spoken]).to(device))
            layers = [[sequence.float().cpu().numpy() for sequence in output.split()] for output in outputs]
    except torch.OutOfMemoryError as error:
        if len(spoken) == 1:
            raise InputError(f"{device} has too little memory for one utterance; use --device cpu") from error
        torch.cuda.empty_cache()
        half = len(prepared) // 2
        first, second = encode(prepared[:half], encoder, device), encode(prepared[half:], encoder, device)
        return [a + b for a, b in zip(first, second, strict=True)]
    for result, sequences in zip(results, layers, strict=True):
        for i, sequence in zip(spoken, sequences, strict=True):
            result[i] = sequence
    return results


def _to_dtype(features: Array, dtype: np.dtype[Any], utterance_id: str) -> Array:
    greatest = float(np.abs(features).max(initial=0.0))
    if greatest > float(np.finfo(dtype).max):
        raise InputError(
            f"{utterance_id!r}: features must fit into fp16 (at most 65504), found {greatest:.6g}; "
            "extract with --store-dtype fp32"
        )
    return features.astype(dtype)
