"""Exactness checks of encoders: above all, an utterance's features must not depend on its batch.

Each check loads small encoders and returns what is wrong, or None. The tests run the checks on
built-in encoders; `mervn check-module --role encoder` runs them on custom ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from features.encoders.base import Encoder, weights_sha256
from features.ragged import Ragged
from features.random_streams import Purpose, generator

TOLERANCE = 2e-5
GARBAGE = 1e4
"""Value written into the padding to make any use of it visible."""
NUM_SAMPLES = (1, 399, 400, 401, 719, 720, 15_599, 15_600, 20_123)
"""Lengths of the audio inputs, at 16 kHz: around the windows and hops of the usual front ends."""
TRANSCRIPTS = (
    "hôm nay trời đẹp",
    "ừ",
    "tôi không biết phải nói gì với anh ấy nữa",
    "supercalifragilisticexpialidocious",
)
MIN_SPREAD = 1e-3
"""Minimum deviation of features between utterances."""
RUNS = "forward runs"
"""The check without which no other makes sense."""
EncoderFactory = Callable[[], Encoder]
"""Loads an encoder with all of its layers, the same in every call."""


def make_inputs(encoder: Encoder) -> list[Tensor]:
    """Return prepared inputs of many lengths, always the same, without empty ones."""
    raw: Sequence[Any] = TRANSCRIPTS
    if encoder.modality == "audio":
        noise = generator(Purpose.ENCODER_INPUT)
        raw = [0.1 * noise.standard_normal(count).astype(np.float32) for count in NUM_SAMPLES]
    return [item for item in map(encoder.prepare, raw) if item.shape[0]]


def encode_together(encoder: Encoder, sequences: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return, for each layer, the features (T, D) of each sequence, encoded in one batch."""
    with torch.inference_mode():
        return [layer.split() for layer in encoder.forward_layers(Ragged.from_sequences(sequences))]


def batch_differences(encoder: Encoder, sequences: Sequence[Tensor]) -> list[float]:
    """Return how far the features of each sequence in a batch are from those alone.

    The maximum over frames, dimensions and layers; infinity for NaN or another length.
    """
    together = encode_together(encoder, sequences)
    found = []
    for i, sequence in enumerate(sequences):
        layers = zip(encode_together(encoder, [sequence]), together, strict=True)
        found.append(max(_distance(alone[0], batch[i]) for alone, batch in layers))
    return found


@contextmanager
def padding_of(fill: float) -> Iterator[None]:
    """Make `Ragged.pad()` fill floating-point values with a number by default, instead of zeros."""
    pad = Ragged.pad

    def filled(self: Ragged, value: float | None = None) -> Tensor:
        default = fill if self.values.dtype.is_floating_point else 0.0
        return pad(self, default if value is None else value)

    with mock.patch.object(Ragged, "pad", filled):
        yield


def _distance(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    difference = (found - expected).abs().max().item() if found.numel() else 0.0
    return math.inf if math.isnan(difference) else difference


def runs(make: EncoderFactory) -> str | None:
    """Require finite fp32 features (sum T, D) with D = `dim` for all inputs."""
    encoder = make()
    for layer in encode_together(encoder, make_inputs(encoder)):
        for features in layer:
            if features.dtype != torch.float32 or features.shape[1:] != (encoder.dim,):
                return f"features must be float32 (T, {encoder.dim}), found {features.dtype} {tuple(features.shape)}"
            if not features.isfinite().all():
                return "features must be finite, found NaN or infinity"
    return None


def lengths(make: EncoderFactory) -> str | None:
    """Compare the numbers of frames, of each input alone, with `get_feat_lengths`."""
    encoder = make()
    unit = "samples" if encoder.modality == "audio" else "tokens"
    for item in make_inputs(encoder):
        count, expected = item.shape[0], int(encoder.get_feat_lengths(item.shape[0]))
        found = encode_together(encoder, [item])[0][0].shape[0]
        if found != expected:
            return f"get_feat_lengths({count}) must be the {found} frames that forward returns, found {expected}"
        if not found:
            return f"an input of {count} {unit} must have at least one frame: pad short inputs in `prepare`"
    return None


def independent_of_batch(make: EncoderFactory) -> str | None:
    """Compare each input alone with a batch whose padding holds garbage."""
    encoder = make()
    with padding_of(GARBAGE):
        difference = max(batch_differences(encoder, make_inputs(encoder)))
    if not difference <= TOLERANCE:
        return (
            f"features change by {difference:.2g} with the other utterances of the batch and the padding; mask the "
            "padding of pad() (Ragged.mask is true for real frames), write pad(0.0) if zeros are meant there, or use "
            "the packed values"
        )
    return None


def independent_of_nan(make: EncoderFactory) -> str | None:
    """Require finite and equal features with NaN in the padding."""
    encoder = make()
    sequences = make_inputs(encoder)
    with padding_of(math.nan):
        difference = max(batch_differences(encoder, sequences))
    if not difference <= TOLERANCE:
        return "NaN in the padding reaches the features: a mask must replace values (masked_fill), not multiply them"
    return None


def independent_of_order(make: EncoderFactory) -> str | None:
    """Compare with the batch in reverse order."""
    encoder = make()
    sequences = make_inputs(encoder)
    forward, backward = encode_together(encoder, sequences), encode_together(encoder, sequences[::-1])
    difference = 0.0
    for layer, reverse in zip(forward, backward, strict=True):
        difference = max(difference, *map(_distance, layer, reverse[::-1]))
    return f"the order of the batch changes features by {difference:.2g}" if difference > TOLERANCE else None


def deterministic(make: EncoderFactory) -> str | None:
    """Run the same batch twice, with another batch in between."""
    encoder = make()
    sequences = make_inputs(encoder)
    first = encode_together(encoder, sequences)
    encode_together(encoder, sequences[:1])
    for layer, again in zip(first, encode_together(encoder, sequences), strict=True):
        if not all(map(torch.equal, layer, again)):
            return "the same batch gives other features the second time: is there dropout, or kept state?"
    return None


def same_when_loaded_again(make: EncoderFactory) -> str | None:
    """Load the encoder twice, and require equal weights and features."""
    first, second = make(), make()
    if weights_sha256(first) != weights_sha256(second):
        return "the weights differ when the encoder is built again: draw them from torch's generator, which is seeded"
    sequences = make_inputs(first)
    if not torch.equal(encode_together(first, sequences)[-1][-1], encode_together(second, sequences)[-1][-1]):
        return "the features differ when the encoder is built again: register every tensor as a parameter or a buffer"
    return None


def depends_on_input(make: EncoderFactory) -> str | None:
    """Require that the features differ between utterances."""
    encoder = make()
    means = torch.stack([features.mean(0) for features in encode_together(encoder, make_inputs(encoder))[-1]])
    spread = means.std(0).max().item()
    return None if spread > MIN_SPREAD else f"all utterances have the same features (they differ by {spread:.2g})"


ENCODER_CHECKS: dict[str, Callable[[EncoderFactory], str | None]] = {
    RUNS: runs,
    "lengths": lengths,
    "batch = alone": independent_of_batch,
    "NaN in the padding": independent_of_nan,
    "order of the batch": independent_of_order,
    "deterministic in eval mode": deterministic,
    "loaded again": same_when_loaded_again,
    "features depend on the input": depends_on_input,
}
"""Checks of an encoder, by name."""
