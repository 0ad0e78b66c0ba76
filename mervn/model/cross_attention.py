"""Two-way cross-attention: each modality asks the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import Ragged, concatenate

PLAIN_COST_BF16 = 1.5
"""A multiplication of plain attention over one of absorbed attention, in bf16 on a CPU, where torch's attention kernel
gains little: both ways take equally long where the plain one has a third fewer. In fp32 the bare count decides rightly
(both measured by benchmarks/benchmark_attention.py)."""


class MultiheadAttention(nn.Module):
    """Multi-head attention of one Ragged to another (Vaswani et al. 2017, section 3.2.2).

    The maps run on packed rows; only the scores see a padded view, with padded keys masked. A query with no key at all
    gets zeros. Equals `nn.MultiheadAttention` of the same weights. Where one side is much shorter than the other, the
    maps of the long side are folded into the short one, which is exact and saves them: see `absorb_keys`.
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
        dtype = _compute_dtype(queries.values)
        queries, keys = (x.map(lambda values: values.to(dtype)) for x in (queries, keys))  # once, not at each use
        if not keys.max_length or not queries.max_length:
            return queries.map(lambda values: values * 0.0)
        heard = keys.lengths > 0  # (B,)
        mask = keys.mask | ~heard[:, None]  # a softmax over nothing would be NaN; such rows are zeroed below
        way = {"keys": self.absorb_keys, "queries": self.absorb_queries, "none": self.attend}[self.way(queries, keys)]
        rows = way(queries, keys, mask)
        return queries.replace(rows.masked_fill(~heard[queries.segments][:, None], 0.0))

    def way(self, queries: Ragged, keys: Ragged) -> str:
        """Return whose maps to absorb, `keys`, `queries` or `none`: what takes the least time.

        That is the fewest multiplications, where one of the plain way counts for `PLAIN_COST_BF16` in bf16 on a CPU.
        """
        dim, heads = self.out.in_features, self.heads
        scores = queries.batch_size * queries.max_length * keys.max_length * dim
        folds = {"keys": queries.batch_size * queries.max_length, "queries": keys.batch_size * keys.max_length}
        on_cpu, dtype = queries.values.device.type == "cpu", _compute_dtype(queries.values)
        plain = PLAIN_COST_BF16 if on_cpu and dtype == torch.bfloat16 else 1.0
        costs = {
            "none": plain * (dim * dim * (2 * queries.total + 2 * keys.total) + 2 * scores),
            "keys": dim * dim * (2 * queries.total + 2 * folds["keys"]) + 2 * heads * scores,
            "queries": dim * dim * (2 * keys.total + 2 * folds["queries"]) + 2 * heads * scores,
        }
        return min(costs, key=lambda name: costs[name])

    def attend(self, queries: Ragged, keys: Ragged, mask: Tensor) -> Tensor:
        """Return the rows (sum Tq, D), every map on its own rows."""
        query = queries.map(self.query).pad().unflatten(-1, (self.heads, -1))  # (B, Tq, H, D / H)
        key_value = keys.map(self.key_value).pad().unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, H, Tk, D / H)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask[:, None, None], dropout_p=dropout
        )  # (B, H, Tq, D / H)
        rows: Tensor = self.out(queries.pack(mixed.transpose(1, 2).flatten(2)).values)
        return rows

    def absorb_keys(self, queries: Ragged, keys: Ragged, mask: Tensor) -> Tensor:
        """Return the same rows for few queries of many keys: no map runs over the keys.

        q . (Wk a + bk) = (q Wk) . a + q . bk, whose last term is the same for all keys and drops out of the softmax;
        sum_t p_t (Wv a_t + bv) = Wv (sum_t p_t a_t) + (sum_t p_t) bv, where the p_t add up to 1 unless dropout has
        zeroed some and scaled the others.
        """
        heads, dim = self.heads, self.out.in_features
        weight_k, weight_v = self.key_value.weight.view(2, heads, dim // heads, dim)
        query = queries.map(self.query).pad().unflatten(-1, (heads, -1))  # (B, Tq, H, D / H)
        folded = torch.einsum("bqhd,hde->bhqe", query, weight_k)  # (B, H, Tq, D)
        padded = keys.pad()  # (B, Tk, D)
        scores = folded.flatten(1, 2) @ padded.transpose(1, 2)  # (B, H Tq, Tk)
        weights = self._weights(scores, mask[:, None])
        mixed = (weights.to(padded.dtype) @ padded).unflatten(1, (heads, -1))  # (B, H, Tq, D)
        value = torch.einsum("bhqe,hde->bqhd", mixed, weight_v)  # (B, Tq, H, D / H)
        bias = self.key_value.bias.chunk(2)[1].view(heads, -1)
        if self.training and self.dropout:  # each value is dropped with its bias, as in `attend`
            bias = weights.sum(-1).unflatten(1, (heads, -1)).transpose(1, 2)[..., None] * bias
        rows: Tensor = self.out(queries.pack((value + bias.to(value.dtype)).flatten(2)).values)
        return rows

    def absorb_queries(self, queries: Ragged, keys: Ragged, mask: Tensor) -> Tensor:
        """Return the same rows for many queries of few keys: neither the query map nor the output map runs over them.

        (Wq a + bq) . k = a . (Wq^T k) + bq . k; Wo sum_t p_t v_t + bo = sum_t p_t (Wo v_t) + bo, head by head.
        """
        heads, dim = self.heads, self.out.in_features
        key_value = keys.map(self.key_value).pad().unflatten(-1, (2, heads, -1))
        key, value = key_value.unbind(2)  # (B, Tk, H, D / H)
        weight_q = self.query.weight.view(heads, dim // heads, dim)
        weight_o = self.out.weight.view(dim, heads, dim // heads)
        folded = torch.einsum("bkhd,hde->bhke", key, weight_q)  # (B, H, Tk, D)
        bias = torch.einsum("bkhd,hd->bhk", key, self.query.bias.view(heads, -1).to(key.dtype))  # (B, H, Tk)
        padded = queries.pad()  # (B, Tq, D)
        scores = (padded @ folded.flatten(1, 2).transpose(1, 2)).unflatten(2, (heads, -1)) + bias[:, None]
        weights = self._weights(scores, mask[:, None, None])  # (B, Tq, H, Tk)
        out = torch.einsum("bkhd,ehd->bhke", value, weight_o).flatten(1, 2)  # (B, H Tk, D)
        mixed = weights.flatten(2).to(out.dtype) @ out  # (B, Tq, D)
        return queries.pack(mixed).values + self.out.bias.to(mixed.dtype)

    def _weights(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the softmax over the last axis of scaled scores, where the mask is true."""
        scale = (self.out.in_features // self.heads) ** -0.5
        weights = (scores * scale).masked_fill(~mask, float("-inf")).softmax(-1)
        return functional.dropout(weights, self.dropout, self.training)

    def maps(self, queries: Ragged, keys: Ragged) -> list[Tensor]:
        """Return the attention weights of each utterance, (H, Tq, Tk); each row adds up to 1, without dropout."""
        found = []
        for query, key in zip(queries.split(), keys.split(), strict=True):
            q = self.query(query).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, Tq, D / H)
            k = self.key_value(key).chunk(2, dim=-1)[0].unflatten(-1, (self.heads, -1)).transpose(0, 1)
            found.append((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1))
        return found


class CrossAttentionBlock(nn.Module):
    """One direction: x' = MHA(x, y, y), with a pre-norm, a residual and a feed-forward part where asked for.

    With all three it is the decoder block of Vaswani et al. 2017 without self-attention, normalised first (Xiong et al.
    2020, arXiv 2002.04745).
    """

    def __init__(self, dim: int, heads: int, dropout: float, residual: bool, norm: bool, feed_forward: bool) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, heads, dropout)
        self.residual = residual
        self.query_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.key_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.feed_forward_norm = nn.LayerNorm(dim) if norm and feed_forward else nn.Identity()
        self.feed_forward = (
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)) if feed_forward else None
        )

    def forward(self, x: Ragged, y: Ragged) -> Ragged:
        """(sum Tx, D) asks (sum Ty, D) -> (sum Tx, D)."""
        rows = self.attention(*self._normal(x, y)).values
        rows = x.values + rows if self.residual else rows
        if self.feed_forward is not None:
            changed = self.feed_forward(self.feed_forward_norm(rows))
            rows = rows + changed if self.residual else changed
        return x.replace(rows)

    def maps(self, x: Ragged, y: Ragged) -> list[Tensor]:
        """Return the attention weights (H, Tx, Ty) of each utterance."""
        return self.attention.maps(*self._normal(x, y))

    def _normal(self, x: Ragged, y: Ragged) -> tuple[Ragged, Ragged]:
        return x.map(self.query_norm), y.map(self.key_norm)


class CrossAttention(nn.Module):
    """T' = MHA(T, A, A), A' = MHA(A, T, T), F = [T'; A'] for each utterance."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        residual: bool = False,
        norm: bool = False,
        feed_forward: bool = False,
    ) -> None:
        super().__init__()
        self.text_to_audio = CrossAttentionBlock(dim, heads, dropout, residual, norm, feed_forward)
        self.audio_to_text = CrossAttentionBlock(dim, heads, dropout, residual, norm, feed_forward)

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [F], (sum (Tt + Ta), D)."""
        text, audio = streams["text"], streams["audio"]
        return [concatenate(self.text_to_audio(text, audio), self.audio_to_text(audio, text))]

    def attention_maps(self, streams: dict[str, Ragged]) -> dict[str, list[Tensor]]:
        """Return who attends to what: for each direction the weights (H, Tq, Tk) of each utterance."""
        text, audio = streams["text"], streams["audio"]
        return {
            "text_to_audio": self.text_to_audio.maps(text, audio),
            "audio_to_text": self.audio_to_text.maps(audio, text),
        }


def _compute_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype in which matrices are multiplied: autocast's where it is on, which leaves float64 alone."""
    device = values.device.type
    if values.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return values.dtype
    return torch.get_autocast_dtype(device)
