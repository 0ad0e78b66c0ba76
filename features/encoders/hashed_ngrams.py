"""Hashed n-grams: a text encoder that needs no download and knows no meaning; a baseline, named so.

A token (white-space syllable) is the mean of seeded random embeddings of the syllable and of its character bi- and
trigrams (the hashing of Bojanowski et al. 2017, "Enriching word vectors with subword information", with a random
table), plus a sinusoidal position. The first row, [CLS], is the mean of the token rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.encoders.base import Encoder, Lengths
from features.encoders.pretrained import RANDOM_NOTE, read_native, save_native
from features.encoders.selector import EncoderSettings, Selector
from features.errors import UsageError
from features.ragged import Ragged, concatenate, segment_mean
from features.text.normalize import syllables
from features.torch_seed import seeded

DEFAULTS: dict[str, Any] = {"dim": 256, "buckets": 1 << 14, "slots": 32, "position_scale": 0.1}
"""`slots`: the most n-grams of a token that count (a Vietnamese syllable of 7 letters has 16); `position_scale`: words
weigh more than places (an entry of a token's row has variance about 1)."""
RANDOM_SEED = 0


def ngrams(syllable: str, slots: int) -> list[str]:
    """Return the syllable itself and the character bi- and trigrams of <syllable>, at most `slots`, in order."""
    marked = f"<{syllable.lower()}>"
    parts = [marked[i : i + n] for n in (2, 3) for i in range(len(marked) - n + 1)]
    return list(dict.fromkeys([marked, *parts]))[:slots]


def bucket(ngram: str, buckets: int) -> int:
    """Return the row of an n-gram in the table, 1..buckets; 0 means no n-gram."""
    return int.from_bytes(hashlib.blake2b(ngram.encode(), digest_size=8).digest(), "little") % buckets + 1


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Return sine and cosine positions (sum T, dim) of Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10_000.0) / dim))
    angles = positions[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class HashedNgrams(Encoder):
    """Mean of hashed n-gram embeddings per syllable, plus position; [CLS] first, the mean of the token rows."""

    name: ClassVar[str] = "hashed_ngrams"
    modality: ClassVar[str] = "text"
    numerics_version: ClassVar[int] = 1

    def __init__(self, config: dict[str, Any] = DEFAULTS) -> None:
        super().__init__()
        self.config = dict(config)
        self.dim, self.layers, self.num_layers = config["dim"], ("last",), 1
        self.model_name, self.weights_note = "baseline", f"{RANDOM_NOTE}, seed {RANDOM_SEED}"
        self.is_random = True
        self.table = nn.Embedding(config["buckets"] + 1, self.dim, padding_idx=0)

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> HashedNgrams:
        """Load a checkpoint folder, or make the table from a fixed seed where the selector names no model."""
        if selector.layers not in (None, ("last",)):
            raise UsageError(f"{selector.flag}: hashed_ngrams has one layer, 'last'")
        if selector.model is None:
            with seeded(torch.device("cpu"), RANDOM_SEED):
                return cls()
        checkpoint = read_native(selector, DEFAULTS)
        encoder = cls(checkpoint.config)
        checkpoint.load_into(selector, encoder)
        return encoder

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes."""
        save_native(self, folder)

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the table: all there is."""
        return [self.table]

    def prepare(self, raw: Any) -> Tensor:
        """Return the n-gram buckets int64 (T, slots) of a normalised transcript; 0 fills unused slots."""
        slots, buckets = self.config["slots"], self.config["buckets"]
        rows = [[bucket(ngram, buckets) for ngram in ngrams(syllable, slots)] for syllable in syllables(raw)]
        filled = [row + [0] * (slots - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.int64).reshape(len(rows), slots)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return one row a token and one for [CLS]; nothing for an empty transcript."""
        return lengths + (lengths > 0)

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Embed buckets (sum T, slots) int64 into [(sum (T + 1), D)]."""
        rows = (
            functional.embedding_bag(  # scaled so that a row's entries have variance 1, however many n-grams
                inputs.values, self.table.weight, mode="sum", padding_idx=0
            )
            / (inputs.values > 0).sum(1, keepdim=True).clamp(min=1).sqrt()
        )
        tokens = inputs.replace(rows + self.config["position_scale"] * sinusoids(inputs.positions, self.dim))
        spoken = [int(size > 0) for size in inputs.sizes]
        cls = segment_mean(tokens)[inputs.lengths > 0]
        return [concatenate(Ragged.from_lengths(cls, spoken), tokens)]
