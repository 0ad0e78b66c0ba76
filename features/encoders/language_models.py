"""Decoder-only language models as text encoders: causal attention, truncation, texts of tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from features.encoders.batch_probe import differs


def is_causal(model: Any, tokens: Tensor) -> bool:
    """Tell whether the output for a token depends on no later token, as in a decoder-only model.

    `tokens` (T,) int64, T >= 2, is encoded with and without its last token.
    """
    outputs = []
    for inputs in (tokens[None], tokens[None, :-1]):  # (1, T), (1, T - 1)
        output = model(input_ids=inputs, attention_mask=torch.ones_like(inputs))
        outputs.append(output.last_hidden_state[0, : len(tokens) - 1])
    return not differs(*outputs)


def truncate_causal(ids: list[int], max_length: int, special_ids: Collection[int]) -> list[int]:
    """Return the first `max_length` token ids; a final special token, if there is one, is kept."""
    if ids[-1] in special_ids:
        return ids[: max_length - 1] + ids[-1:]
    return ids[:max_length]


def readable_token(tokenizer: Any, token: str) -> str:
    """Return a token as text: byte-level BPE names bytes by other characters.

    A token of incomplete characters, or of white space alone, is returned unchanged.
    """
    text = str(tokenizer.convert_tokens_to_string([token])).strip()
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else token
