"""Checks that features do not depend on the batch: not every architecture masks its padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from features.ragged import Ragged

LENGTHS = (3, 11)
"""Tokens of the two test sequences; the first one is padded in a batch."""
TOLERANCE = 1e-4
"""Maximum difference, relative to the largest value; fp32 rounding is 1e-6."""


def probe_tokens(vocabulary: int, max_length: int) -> list[Tensor]:
    """Return random token ids (T,) int64 of two test sequences, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (min(length, max_length),), generator=generator) for length in LENGTHS]


def depends_on_batch(forward: Callable[[Ragged], list[Ragged]], sequences: Sequence[Tensor]) -> bool:
    """Tell whether the first sequence has other features in a batch than alone, in any layer."""
    alone = forward(Ragged.from_sequences(sequences[:1]))
    together = forward(Ragged.from_sequences(sequences))
    return any(differs(one.values, many.split()[0]) for one, many in zip(alone, together, strict=True))


def mismatched_layers(model: Any, features: Mapping[int, Tensor], tokens: Tensor) -> list[int]:
    """Return the layers k whose features (T, D) differ from `hidden_states[k]` of transformers.

    `features` are those of the tokens (T,) int64, by layer.
    """
    if not features:
        return []
    inputs = tokens[None]  # (1, T)
    output = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), output_hidden_states=True)
    hidden = getattr(output, "hidden_states", None) or ()
    mismatched = []
    for layer, found in features.items():
        if layer >= len(hidden) or differs(found, hidden[layer][0]):
            mismatched.append(layer)
    return mismatched


def differs(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors differ by more than rounding; NaN counts as different."""
    if first.shape != second.shape:
        return True
    scale = max(1.0, float(first.abs().max()))
    # `not <=`, so that NaN differs
    return not float((first - second).abs().max()) <= TOLERANCE * scale
