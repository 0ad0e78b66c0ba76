"""Does a model give an utterance the same features alone and in a batch? Not every architecture masks its padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from features.ragged import Ragged

LENGTHS = (3, 11)
"""Tokens of the sequences that are tried; the first one is padded."""
TOLERANCE = 1e-4
"""Maximum difference, relative to the largest value; fp32 rounding is 1e-6."""


def probe_tokens(vocabulary: int, longest: int) -> list[Tensor]:
    """Return token ids (T,) int64 of two sequences of different lengths, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (min(length, longest),), generator=generator) for length in LENGTHS]


def depends_on_batch(forward: Callable[[Ragged], list[Ragged]], sequences: Sequence[Tensor]) -> bool:
    """Tell whether the first sequence has other features beside the others than alone, in any layer."""
    alone = forward(Ragged.from_sequences(sequences[:1]))
    together = forward(Ragged.from_sequences(sequences))
    pairs = zip(alone, together, strict=True)
    return any(differs(one.values, many.split()[0]) for one, many in pairs)


def wrong_layers(model: Any, layers: Sequence[int], states: Sequence[Tensor], tokens: Tensor) -> list[int]:
    """Return the numbered layers whose features (T, D) are not `hidden_states[k]` of transformers."""
    output = model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens[None]), output_hidden_states=True)
    hidden = getattr(output, "hidden_states", None) or ()
    return [k for k, state in zip(layers, states, strict=True) if k >= len(hidden) or differs(state, hidden[k][0])]


def differs(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors differ by more than rounding; NaN differs."""
    if first.shape != second.shape:
        return True
    scale = max(1.0, float(first.abs().max()))
    return not float((first - second).abs().max()) <= TOLERANCE * scale
