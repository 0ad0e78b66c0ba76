"""Multi-head cross-attention between text and audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import Ragged, concatenate
from mervn.model.products import dot_products, weighted_sums

PLAIN_COST = {torch.float32: 1.05, torch.bfloat16: 1.9}
"""Cost of a multiplication in plain attention, relative to absorbed attention, on a CPU.

Both take the same time when plain attention needs 5 % fewer multiplications in fp32, and half as
many in bf16, where torch's attention kernel gains little. On a GPU it is 1. Measured for the shapes
of benchmarks/benchmark_attention.py and some between them."""


def _pad(ragged: Ragged) -> Tensor:
    return ragged.pad()


class PadOnce:
    """Pads values that several layers read: (B, max_length, ...), with zeros in the padding, computed once.

    Each layer gets its own view, so autograd first sums the gradients within a layer, as if each layer had
    padded the values itself. The results are equal to the last bit.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Tensor, Tensor]] = []

    def __call__(self, ragged: Ragged) -> Tensor:
        """Return the padded view of a batch."""
        for values, padded in self._known:
            if values is ragged.values:
                return padded.view_as(padded)
        padded = ragged.pad()
        self._known.append((ragged.values, padded))
        return padded.view_as(padded)


class MultiheadAttention(nn.Module):
    """Multi-head attention between two Ragged batches (Vaswani et al. 2017, section 3.2.2).

    The projections run on packed frames; only the scores use a padded view, in which padded keys
    are masked. A query without any key gets zeros. The result equals `nn.MultiheadAttention` with
    the same weights.

    If one side is much shorter than the other, the projections of the long side are absorbed into
    the short side. This is exact, and the long side needs no projections: see `absorb_keys` and
    `absorb_queries`.
    """

    training_numerics: ClassVar[int] = 4
    """Raised when the last bits of its results change: see `mervn.training.checkpoint`."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, found {dim} and {heads}")
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        for weight in (self.query.weight, *self.key_value.weight.chunk(2)):
            nn.init.xavier_uniform_(weight)
        for bias in (self.query.bias, self.key_value.bias, self.out.bias):
            nn.init.zeros_(bias)

    def forward(self, queries: Ragged, keys: Ragged, pad: Callable[[Ragged], Tensor] = _pad) -> Ragged:
        """Return the attention output (sum Tq, D) of queries (sum Tq, D) over keys (sum Tk, D).

        `pad` returns the padded view of inputs; another layer may need it too.
        """
        dtype = _compute_dtype(queries.values)
        # Cast once here instead of once per matrix product.
        queries = queries.replace(queries.values.to(dtype))
        keys = keys.replace(keys.values.to(dtype))
        if not keys.max_length or not queries.max_length:
            # Multiplication keeps the graph, so that gradients are zero, not missing.
            return queries.replace(queries.values * 0.0)
        has_keys = keys.lengths > 0  # (B,)
        # A softmax over no keys would be NaN. Utterances without keys attend to padding instead,
        # and their output is set to zero below.
        mask = keys.mask | ~has_keys[:, None]
        methods = {"keys": self.absorb_keys, "queries": self.absorb_queries, "none": self.attend}
        output = methods[self.absorbed_side(queries, keys)](queries, keys, mask, pad)
        if not keys.sizes or 0 in keys.sizes:
            output = output.masked_fill(~has_keys[queries.segments][:, None], 0.0)
        return queries.replace(output)

    def absorbed_side(self, queries: Ragged, keys: Ragged) -> str:
        """Return the side whose projections to absorb at the lowest cost.

        The result is `keys`, `queries` or `none`.

        The cost is the number of multiplications, with plain attention weighted by `PLAIN_COST` on a
        CPU.
        """
        if not queries.sizes:  # in a graph with dynamic axes, no length is known
            return "none"
        dim, heads = self.out.in_features, self.heads
        padded_queries = queries.batch_size * queries.max_length
        padded_keys = keys.batch_size * keys.max_length
        scores = padded_queries * keys.max_length * dim
        on_cpu = queries.values.device.type == "cpu"
        plain = PLAIN_COST.get(_compute_dtype(queries.values), 1.0) if on_cpu else 1.0
        costs = {
            "none": plain * (dim * dim * (2 * queries.total + 2 * keys.total) + 2 * scores),
            "keys": dim * dim * (2 * queries.total + 2 * padded_queries) + 2 * heads * scores,
            "queries": dim * dim * (2 * keys.total + 2 * padded_keys) + 2 * heads * scores,
        }
        return min(costs, key=lambda name: costs[name])

    def attend(self, queries: Ragged, keys: Ragged, mask: Tensor, pad: Callable[[Ragged], Tensor] = _pad) -> Tensor:
        """Return the output (sum Tq, D) of plain attention: all projections run on their frames.

        `mask` (B, Tk) bool is true for the keys to attend to, and `pad` pads inputs, here and in the
        methods below.
        """
        query = queries.map(self.query).pad().unflatten(-1, (self.heads, -1))  # (B, Tq, H, D / H)
        key_value = keys.map(self.key_value).pad().unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # (B, H, Tk, D / H)
        dropout = self.dropout if self.training else 0.0
        context = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask[:, None, None], dropout_p=dropout
        )  # (B, H, Tq, D / H)
        output: Tensor = self.out(queries.pack(context.transpose(1, 2).flatten(2)).values)
        return output

    def absorb_keys(
        self, queries: Ragged, keys: Ragged, mask: Tensor, pad: Callable[[Ragged], Tensor] = _pad
    ) -> Tensor:
        """Return the output of `attend` for few queries and many keys; the keys are not projected.

        Scores: q . (Wk a + bk) = (q Wk) . a + q . bk
        Output: sum_t p_t (Wv a_t + bv) = Wv (sum_t p_t a_t) + (sum_t p_t) bv

        The term q . bk is the same for all keys, so the softmax cancels it. The weights p_t sum to
        1, except under dropout, which sets some to zero and scales the others.
        """
        heads, dim = self.heads, self.out.in_features
        weight_k, weight_v = self.key_value.weight.view(2, heads, dim // heads, dim)
        query = (queries.map(self.query).pad() * self.scale).unflatten(-1, (heads, -1))  # (B, Tq, H, D / H)
        absorbed = torch.einsum("bqhd,hde->bhqe", query, weight_k)  # (B, H, Tq, D)
        padded = pad(keys)  # (B, Tk, D)
        masked = padded.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))  # (B, Tk)
        scores = dot_products(absorbed.flatten(1, 2), padded).add_(masked[:, None])  # (B, H Tq, Tk)
        weights = functional.dropout(scores.softmax(-1), self.dropout, self.training)
        context = (weights.to(padded.dtype) @ padded).unflatten(1, (heads, -1))  # (B, H, Tq, D)
        value = torch.einsum("bhqe,hde->bqhd", context, weight_v)  # (B, Tq, H, D / H)
        bias = self.key_value.bias.chunk(2)[1].view(heads, -1)
        if self.training and self.dropout:
            # Dropout applies to a value together with its bias, as in `attend`.
            bias = weights.sum(-1).unflatten(1, (heads, -1)).transpose(1, 2)[..., None] * bias
        output: Tensor = self.out(queries.pack((value + bias.to(value.dtype)).flatten(2)).values)
        return output

    def absorb_queries(
        self, queries: Ragged, keys: Ragged, mask: Tensor, pad: Callable[[Ragged], Tensor] = _pad
    ) -> Tensor:
        """Return the output of `attend` for many queries and few keys; queries are not projected.

        For each head:

        Scores: (Wq a + bq) . k = a . (Wq^T k) + bq . k
        Output: Wo sum_t p_t v_t + bo = sum_t p_t (Wo v_t) + bo
        """
        heads, dim = self.heads, self.out.in_features
        key_value = keys.map(self.key_value).pad().unflatten(-1, (2, heads, -1))
        key, value = key_value.unbind(2)  # (B, Tk, H, D / H)
        key = key * self.scale
        weight_q = self.query.weight.view(heads, dim // heads, dim)
        weight_o = self.out.weight.view(dim, heads, dim // heads)
        absorbed = torch.einsum("bkhd,hde->bhke", key, weight_q)  # (B, H, Tk, D)
        query_bias = self.query.bias.view(heads, -1).to(key.dtype)
        bias = torch.einsum("bkhd,hd->bhk", key, query_bias).masked_fill(~mask[:, None], float("-inf"))
        padded = pad(queries)  # (B, Tq, D)
        # The keys are not the last axis: a CPU computes a softmax over a short last axis slowly.
        scores = dot_products(absorbed.flatten(1, 2), padded).add_(bias.flatten(1)[..., None])  # (B, H Tk, Tq)
        weights = functional.dropout(scores.unflatten(1, (heads, -1)).softmax(2), self.dropout, self.training)
        projected = torch.einsum("bkhd,ehd->bhke", value, weight_o).flatten(1, 2)  # (B, H Tk, D)
        context = weighted_sums(weights.flatten(1, 2).to(projected.dtype), projected)  # (B, Tq, D)
        return queries.pack(context).values + self.out.bias.to(context.dtype)

    def attention_weights(self, queries: Ragged, keys: Ragged) -> list[Tensor]:
        """Return the attention weights (H, Tq, Tk) of each utterance, without dropout.

        The weights of each query sum to 1.
        """
        weights = []
        for query, key in zip(queries.split(), keys.split(), strict=True):
            q = self.query(query).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, Tq, D / H)
            k, _ = self.key_value(key).chunk(2, dim=-1)
            k = k.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, Tk, D / H)
            weights.append((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1))
        return weights


class CrossAttentionBlock(nn.Module):
    """One direction of cross-attention between two modalities: x' = MHA(x, y, y).

    Pre-norm, residual connections and a feed-forward part are optional. With all three it is the
    decoder block of Vaswani et al. 2017 without self-attention, with pre-norm (Xiong et al. 2020,
    arXiv 2002.04745).
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

    def forward(self, x: Ragged, y: Ragged, pad: Callable[[Ragged], Tensor] = _pad) -> Ragged:
        """Return x' (sum Tx, D): queries x (sum Tx, D) attend to keys and values y (sum Ty, D).

        `pad` returns the padded view of inputs.
        """
        output = self.attention(*self._normalize(x, y), pad).values
        if self.residual:
            output = x.values + output
        if self.feed_forward is not None:
            transformed = self.feed_forward(self.feed_forward_norm(output))
            output = output + transformed if self.residual else transformed
        return x.replace(output)

    def attention_weights(self, x: Ragged, y: Ragged) -> list[Tensor]:
        """Return the attention weights (H, Tx, Ty) of each utterance."""
        return self.attention.attention_weights(*self._normalize(x, y))

    def _normalize(self, x: Ragged, y: Ragged) -> tuple[Ragged, Ragged]:
        return x.map(self.query_norm), y.map(self.key_norm)


class CrossAttention(nn.Module):
    """Two-way cross-attention fusion: T' = MHA(T, A, A), A' = MHA(A, T, T), F = [T'; A']."""

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
        text, audio, pad = streams["text"], streams["audio"], PadOnce()
        return [concatenate(self.text_to_audio(text, audio, pad), self.audio_to_text(audio, text, pad))]

    def attention_weights(self, streams: dict[str, Ragged]) -> dict[str, list[Tensor]]:
        """Return the attention weights (H, Tq, Tk) of each utterance, by direction."""
        text, audio = streams["text"], streams["audio"]
        return {
            "text_to_audio": self.text_to_audio.attention_weights(text, audio),
            "audio_to_text": self.audio_to_text.attention_weights(audio, text),
        }


def _compute_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: that of autocast if it is on, except for float64."""
    device = values.device.type
    if values.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return values.dtype
    return torch.get_autocast_dtype(device)
