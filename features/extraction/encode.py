"""Encoding of batches: read and prepare utterances, run a frozen encoder on them, check the features.

These are three steps: `read_or_reject`, `launch_batch` and `finish_batch`. On a GPU the second one
returns before the features are computed, so that the next batch can be launched meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from features.audio.decoding import Decode, decode
from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError
from features.encoders.base import Encoder
from features.encoders.finetuned import EVALUATION_SPLITS
from features.errors import InputError
from features.extraction.encoder_input import (
    Input,
    decode_utterance,
    input_key,
    source_of,
    transcript_of,
)
from features.extraction.host_copy import HostCopy, Outputs, is_finite
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget
from features.ragged import Ragged
from features.store.mapped import Array
from features.store.part import StoredUtterance
from features.store.rejected import Rejection
from features.text.normalize import text_sha256

ALWAYS_FITS_S = 30.0
"""Longer audio is rejected if it does not fit into memory. If shorter audio does not fit, the
extraction stops."""
TORCH_DTYPES = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
"""Of the values of a store."""


@dataclass(frozen=True)
class ReadBatch:
    """Prepared inputs of one batch."""

    inputs: list[Input]
    rejected: list[Rejection]
    """Utterances whose audio cannot be used."""


@dataclass(frozen=True)
class LaunchedBatch:
    """A batch whose features are on their way to the host."""

    read: ReadBatch
    outputs: list[Outputs]

    @property
    def num_bytes(self) -> int:
        """Bytes of the features on the host, in float32."""
        return sum(part.num_bytes for part in self.outputs)


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
        read = read_or_reject(encoder, utterance)
        if isinstance(read, Input):  # otherwise it is rejected later, with its reason
            inputs.append((utterance, read.input_sha256))
    encoder.fine_tuning.refuse_training_utterances(inputs)


def encode_batch(
    utterances: Sequence[Utterance],
    encoder: Encoder,
    device: torch.device,
    dtype: np.dtype[Any],
    budget: MemoryBudget | None = None,
) -> EncodedBatch:
    """Read and encode one batch.

    `dtype` is the store's, `budget` limits the memory of the device. InputError if a value does not
    fit `dtype`, or if the encoder was trained on an utterance of valid or test.
    """
    read = gather_batch([read_or_reject(encoder, utterance) for utterance in utterances])
    return finish_batch(launch_batch(read, encoder, device, budget), encoder, device, dtype)


def read_or_reject(encoder: Encoder, utterance: Utterance, decode: Decode = decode) -> Input | Rejection:
    """Read and prepare one utterance, or return why its audio cannot be used.

    The source is taken before reading: a rejection must not name a file that changed meanwhile.
    """
    if encoder.modality == "text":
        text = transcript_of(utterance)
        return Input(utterance, encoder.prepare(text), len(text), text_sha256(text), None)
    decoded = decode_utterance(utterance, decode)
    source = source_of(utterance, decoded.state)
    try:
        decoded.check()
        return Input(utterance, encoder.prepare(decoded.samples), len(decoded.samples), decoded.sha256, source)
    except AudioError as error:
        return Rejection(utterance, error.reason, str(error), input_key(utterance, encoder.modality, source))


def gather_batch(results: Iterable[Input | Rejection]) -> ReadBatch:
    """Return the batch of utterances that were read one by one."""
    batch = ReadBatch([], [])
    for result in results:
        if isinstance(result, Rejection):
            batch.rejected.append(result)
        else:
            batch.inputs.append(result)
    return batch


def launch_batch(
    read: ReadBatch, encoder: Encoder, device: torch.device, budget: MemoryBudget | None = None
) -> LaunchedBatch:
    """Run the encoder on a batch; one pass gives the features of all layers.

    InputError if the encoder was trained on an utterance of valid or test.
    """
    if encoder.fine_tuning is not None:
        pairs = ((item.utterance, item.input_sha256) for item in read.inputs)
        encoder.fine_tuning.refuse_training_utterances(pairs, are_all=False)
    return LaunchedBatch(read, launch([item.prepared for item in read.inputs], encoder, device, budget))


def finish_batch(launched: LaunchedBatch, encoder: Encoder, device: torch.device, dtype: np.dtype[Any]) -> EncodedBatch:
    """Wait for the features of a batch, check them, and round them to the `dtype` of the store.

    InputError if a value does not fit `dtype`.
    """
    inputs, rejected = launched.read.inputs, list(launched.read.rejected)
    stored: list[list[StoredUtterance]] = [[] for _ in encoder.layers]
    wanted = TORCH_DTYPES[dtype]
    # checked and rounded for the whole batch; one by one only if some value does not fit
    is_valid = all(layer.fits(wanted) for part in launched.outputs for layer in part.layers or ())
    found = collect(launched.outputs, len(inputs), encoder, wanted if is_valid else torch.float32)
    for item, layers in zip(inputs, found, strict=True):
        name = item.utterance.utterance_id
        if layers is None:
            rejected.append(_too_long(item, encoder, device))
            continue
        _check_length(item, layers[0], encoder)
        # checked before the cast to fp16, whose overflow is a different error
        if not is_valid and not all(np.isfinite(features).all() for features in layers):
            detail = "the encoder output has NaN or infinity"
            rejected.append(Rejection(item.utterance, "non_finite_features", detail, _key(item, encoder)))
            continue
        source = item.source_json
        for features, chosen in zip(layers, stored, strict=True):
            values = features if is_valid else _to_dtype(features, dtype, name)
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
    return collect(launch(prepared, encoder, device, budget), len(prepared), encoder)


def launch(
    prepared: list[torch.Tensor], encoder: Encoder, device: torch.device, budget: MemoryBudget | None = None
) -> list[Outputs]:
    """Run an encoder on prepared inputs, in as many parts as fit into memory; empty inputs have no outputs."""
    budget = budget or MemoryBudget(device)
    nonempty, costs = [], []
    for i, item in enumerate(prepared):
        costs.append(float(encoder.get_padded_length(item.shape[0])))
        if item.shape[0]:
            nonempty.append(i)

    def compute(part: list[int]) -> list[HostCopy]:
        batch = Ragged.from_sequences([prepared[i] for i in part]).to(device)
        return list(map(HostCopy, encoder.forward_layers(batch)))

    with torch.inference_mode():
        return [Outputs(part, layers) for part, layers in budget.run(nonempty, costs, compute)]


def collect(
    outputs: Iterable[Outputs], count: int, encoder: Encoder, dtype: torch.dtype = torch.float32
) -> list[list[Array] | None]:
    """Wait for the outputs of `count` inputs and return them as `encode` does, rounded to a dtype."""
    empty = [torch.zeros(0, encoder.dim, dtype=dtype).numpy() for _ in encoder.layers]
    results: list[list[Array] | None] = [empty] * count
    for part in outputs:
        layers = None if part.layers is None else [layer.sequences(dtype) for layer in part.layers]
        for place, i in enumerate(part.indices):
            results[i] = None if layers is None else [sequences[place] for sequences in layers]
    return results


def _to_dtype(features: Array, dtype: np.dtype[Any], utterance_id: str) -> Array:
    """Cast features to the store's dtype; InputError if a value is too large for it."""
    with np.errstate(over="ignore"):
        values = features.astype(dtype)
    if not is_finite(values):
        raise InputError(
            f"{utterance_id!r}: features must fit into fp16 (at most 65504), found {np.abs(features).max():.6g}; "
            "extract with --store-dtype fp32"
        )
    return values
