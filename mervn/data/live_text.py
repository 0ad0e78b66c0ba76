"""Features of other transcripts than the stored ones, encoded as the text store of a run was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from features.batching import plan_batches
from features.canonical import differing_fields
from features.command_lines import recorded_settings
from features.device import precision_context
from features.encoders.base import Encoder, load_encoder
from features.errors import InputError, UsageError
from features.extraction.encode import encode_batch
from features.extraction.encoder_input import transcript_of
from features.extraction.plan import MAX_BATCH
from features.manifests.manifest import Utterance
from features.memory import MemoryBudget, default_budget
from features.store.part import DTYPES
from mervn.data.streams import Stream


def encode_transcripts(
    stream: Stream, utterances: Sequence[Utterance], device: torch.device, trust_code: bool = False
) -> list[torch.Tensor]:
    """Encode the transcripts of N utterances with the encoder of a text stream.

    Returns for each its features (T, D), or (T, L, D) for L > 1 layers, in the dtype of the store.
    Nothing is written, so no store can hold features of other transcripts. InputError if the
    encoder cannot be loaded or is not the one that the store was extracted with. UsageError if the
    features were imported, or if it is a custom encoder and `trust_code` is not set, because
    loading runs its code.
    """
    if stream.imported:
        raise UsageError(
            f"other transcripts must be encoded as those of {stream.first.path}, but it holds imported features "
            f"({stream.encoder}): there is no encoder"
        )
    identity = stream.first.info.identity
    selector = stream.selector
    selector = replace(selector, trusted=selector.trusted or trust_code)
    encoder = load_encoder(selector, recorded_settings(identity.config))
    _refuse_other_encoder(stream, encoder)
    encoder.to(device)
    lengths = [encoder.get_padded_length(len(encoder.prepare(transcript_of(one)))) for one in utterances]
    plan = plan_batches(lengths, default_budget("text", device), MAX_BATCH)
    found: dict[str, torch.Tensor] = {}
    budget, dtype = MemoryBudget(device), DTYPES[identity.store_dtype]
    with precision_context(device, identity.encoder_precision):
        for indices in plan:
            encoded = encode_batch([utterances[i] for i in indices], encoder, device, dtype, budget)
            for rejection in encoded.rejected:
                raise InputError(f"{rejection.utterance.utterance_id!r} cannot be encoded: {rejection.detail}")
            for layers in zip(*encoded.layers, strict=True):
                values = [torch.from_numpy(one.values) for one in layers]
                found[layers[0].utterance_id] = values[0] if len(values) == 1 else torch.stack(values, dim=1)
    return [found[one.utterance_id] for one in utterances]


def prepare_transcripts(encoder: Encoder, utterances: Sequence[Utterance], device: torch.device) -> list[torch.Tensor]:
    """Return the tokens (T,) of the transcripts of N utterances on the CPU: the input of the encoder."""
    return [encoder.prepare(transcript_of(one)) for one in utterances]


def _refuse_other_encoder(stream: Stream, encoder: Encoder) -> None:
    """Raise InputError unless an encoder computes the features of a stream's stores."""
    identity = stream.first.info.identity
    live = replace(
        identity,
        weights_sha256=encoder.weights_sha256,
        config=encoder.config,
        numerics_version=encoder.numerics_version,
        dim=encoder.dim,
    )
    differing = differing_fields(identity.as_json(), live.as_json())
    if differing:
        message = f"{stream.first.path} must have been extracted with the encoder {stream.selector}, but they differ:"
        for key, (stored, now) in differing.items():
            message += f"\n  {key}: {stored!r} in the store, {now!r} now"
        raise InputError(message)
