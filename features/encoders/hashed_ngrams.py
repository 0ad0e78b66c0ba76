"""Hashed n-grams: a baseline text encoder with random embeddings, which needs no download.

It has no semantics. The embedding of a token (a syllable between white space) is the scaled sum of
random embeddings of the syllable and of its character bi- and trigrams, plus a sinusoidal position.
The hashing is that of Bojanowski et al. 2017, "Enriching word vectors with subword information".
The first token, [CLS], is the mean of the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict, cast

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


class HashedConfig(TypedDict):
    """Config of the encoder; that of a checkpoint has the same keys."""

    dim: int
    buckets: int
    slots: int
    """Maximum number of n-grams per token (a Vietnamese syllable of 7 letters has 16)."""
    position_scale: float
    """Weight of the position; the elements of a token embedding have a variance of about 1."""


DEFAULTS: HashedConfig = {"dim": 256, "buckets": 1 << 14, "slots": 32, "position_scale": 0.1}
RANDOM_SEED = 0


def ngrams(syllable: str, slots: int) -> list[str]:
    """Return <syllable> and its character bi- and trigrams, in order, at most `slots`."""
    marked = f"<{syllable.lower()}>"
    parts = [marked]
    for n in (2, 3):
        parts += [marked[i : i + n] for i in range(len(marked) - n + 1)]
    return list(dict.fromkeys(parts))[:slots]


def bucket(ngram: str, buckets: int) -> int:
    """Return the index of an n-gram in the embedding table, 1..buckets; 0 means no n-gram."""
    digest = hashlib.blake2b(ngram.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets + 1


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Return sinusoidal embeddings (sum T, dim) of positions (sum T,), dim even.

    Vaswani et al. 2017, section 3.5.
    """
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10_000.0) / dim))
    angles = positions[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class HashedNgrams(Encoder):
    """Hashed n-gram embeddings of each syllable, plus position.

    The first token is [CLS], the mean of the others.
    """

    name: ClassVar[str] = "hashed_ngrams"
    modality: ClassVar[str] = "text"
    numerics_version: ClassVar[int] = 1

    def __init__(self, config: HashedConfig = DEFAULTS) -> None:
        super().__init__()
        self.config = dict(config)
        self.dim, self.layers, self.num_layers = config["dim"], ("last",), 1
        self.model_name, self.weights_note = "baseline", f"{RANDOM_NOTE}, seed {RANDOM_SEED}"
        self.is_random = True
        self.table = nn.Embedding(config["buckets"] + 1, self.dim, padding_idx=0)

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> HashedNgrams:
        """Load a checkpoint folder, or initialize the table from a fixed seed if none is named."""
        if selector.layers not in (None, ("last",)):
            raise UsageError(f"{selector.flag}: hashed_ngrams has one layer, 'last'")
        if selector.model is None:
            with seeded(torch.device("cpu"), RANDOM_SEED):
                return cls()
        checkpoint = read_native(selector, DEFAULTS)
        encoder = cls(cast(HashedConfig, checkpoint.config))
        checkpoint.load_into(selector, encoder)
        return encoder

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes."""
        save_native(self, folder)

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the embedding table, the only module with parameters."""
        return [self.table]

    def prepare(self, raw: Any) -> Tensor:
        """Return the n-gram buckets int64 (T, slots) of a normalized transcript.

        Unused slots are 0.
        """
        slots, buckets = self.config["slots"], self.config["buckets"]
        tokens = []
        for syllable in syllables(raw):
            indices = [bucket(ngram, buckets) for ngram in ngrams(syllable, slots)]
            tokens.append(indices + [0] * (slots - len(indices)))
        return torch.tensor(tokens, dtype=torch.int64).reshape(len(tokens), slots)

    def num_tokens(self, transcript: str) -> int:
        """Return the number of syllables of a normalized transcript."""
        return len(syllables(transcript))

    def token_texts(self, transcript: str) -> list[str]:
        """Return [CLS] and the syllables of a normalized transcript; nothing for an empty one."""
        tokens = syllables(transcript)
        return ["[CLS]", *tokens] if tokens else []

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the number of tokens plus one for [CLS]; 0 for an empty transcript."""
        return lengths + (lengths > 0)

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Embed buckets (sum T, slots) int64 into [(sum (T + 1), D)]."""
        summed = functional.embedding_bag(inputs.values, self.table.weight, mode="sum", padding_idx=0)
        count = (inputs.values > 0).sum(1, keepdim=True).clamp(min=1)
        embeddings = summed / count.sqrt()  # (sum T, D): variance 1, whatever the number of n-grams
        positions = self.config["position_scale"] * sinusoids(inputs.positions, self.dim)
        tokens = inputs.replace(embeddings + positions)
        cls = tokens.one_frame(segment_mean(tokens))  # an empty transcript has none
        return [concatenate(cls, tokens)]
