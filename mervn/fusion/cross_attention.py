"""Two-way cross-attention: each modality asks the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import Ragged, concatenate


class MultiheadAttention(nn.Module):
    """Multi-head attention of one Ragged to another (Vaswani et al. 2017, section 3.2.2).

    The maps run on packed rows; only the scores see a padded view, with padded keys masked. A query with no key at all
    gets zeros. Equals `nn.MultiheadAttention` of the same weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, found {dim} and {heads}")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        for weight in (self.query.weight, *self.key_value.weight.chunk(2)):
            nn.init.xavier_uniform_(weight)
        for bias in (self.query.bias, self.key_value.bias, self.out.bias):
            nn.init.zeros_(bias)

    def forward(self, queries: Ragged, keys: Ragged) -> Ragged:
        """(sum Tq, D) asks (sum Tk, D) of the same utterances -> (sum Tq, D)."""
        query = queries.replace(self.query(queries.values)).pad().unflatten(-1, (self.heads, -1))  # (B, Tq, H, D / H)
        key_value = keys.replace(self.key_value(keys.values)).pad().unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, H, Tk, D / H)
        if not keys.max_length:
            return queries.replace(torch.zeros_like(queries.values))
        heard = keys.lengths > 0  # (B,)
        mask = keys.mask | ~heard[:, None]  # a softmax over nothing would be NaN; such rows are zeroed below
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask[:, None, None], dropout_p=dropout
        )  # (B, H, Tq, D / H)
        rows = self.out(queries.pack(mixed.transpose(1, 2).flatten(2)).values)
        return queries.replace(_zero_where(rows, ~heard[queries.segments]))


def _zero_where(rows: Tensor, gone: Tensor) -> Tensor:
    return rows.masked_fill(gone[:, None], 0.0)


class CrossAttention(nn.Module):
    """T' = MHA(T, A, A), A' = MHA(A, T, T), F = [T'; A'] for each utterance."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.text_to_audio = MultiheadAttention(dim, heads, dropout)
        self.audio_to_text = MultiheadAttention(dim, heads, dropout)

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [F], (sum (Tt + Ta), D)."""
        text, audio = streams["text"], streams["audio"]
        return [concatenate(self.text_to_audio(text, audio), self.audio_to_text(audio, text))]
