"""TranscriptTokens: words and tokens of transcripts, remembered for planning, counting and encoding."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from features.encoders.config_fields import tokenizer_settings
from features.manifests.columns import Array
from features.text.normalize import TokenCounts, apply_tone_style, is_segmented
from features.text.segmenters import load_segmenter

MAX_KNOWN = 1 << 20
"""Maximum number of transcripts, and of words, that are remembered: each transcript takes some 250 bytes."""
FACTS = ("length", "is_truncated", *TokenCounts._fields)
"""Facts of a transcript: the number of tokens that the encoder reads, 1 if it has more, and its `TokenCounts`."""


class TranscriptTokens:
    """Segments transcripts into words, and splits these into the tokens of a tokenizer of transformers."""

    def __init__(self, tokenizer: Any, segmenter: str, tone_style: str) -> None:
        self.tokenizer, self.tone_style = tokenizer, tone_style
        self._segmenter_name = segmenter
        self._segment, self.segmenter = load_segmenter(segmenter)
        """The name of the segmenter with its version."""
        self._unknown_id = tokenizer.unk_token_id
        self._special_ids = frozenset(tokenizer.all_special_ids) - {self._unknown_id}
        self._last_words = ("", "")
        """The last transcript, and its words."""
        self._tokens: dict[str, array[int]] = {}
        self._is_single: dict[str, bool] = {}
        """Whether a word is a single token of the vocabulary."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the tokenizer was loaded from: a pickled tokenizer can have other scores in the last digit."""
        made_of = type(self.tokenizer), self.tokenizer.name_or_path, tokenizer_settings(self.tokenizer)
        return _load, (*made_of, self._segmenter_name, self.tone_style)

    def words(self, text: str) -> str:
        """Return the words of a normalized transcript, in the tone style and separated by spaces."""
        last = self._last_words
        if text != last[0]:
            # before segmentation, so that both styles are segmented alike
            styled = apply_tone_style(text, self.tone_style)
            segmented = styled if is_segmented(text) else self._segment(styled)
            # again after it: underthesea changes new to old
            last = self._last_words = text, apply_tone_style(segmented, self.tone_style)
        return last[1]

    def tokens(self, text: str) -> list[int]:
        """Return all token ids of a normalized transcript, including special tokens."""
        return self.compact(text).tolist()

    def compact(self, text: str) -> array[int]:
        """Return the token ids of a normalized transcript as they are remembered."""
        known = self._tokens.get(text)
        if known is None:
            encoding = self.tokenizer(self.words(text), truncation=False, verbose=False)
            known = array("i", encoding["input_ids"])
            self.remember(text, known)
        return known

    def remember(self, text: str, tokens: array[int]) -> None:
        """Remember the token ids of a transcript."""
        _remember(self._tokens, text, tokens)

    def count(self, transcripts: Iterable[str]) -> TokenCounts:
        """Count tokens and words of normalized transcripts, and those in the vocabulary."""
        counts = TokenCounts(0, 0, 0, 0, 0)
        for text in filter(None, transcripts):
            tokens, words = self.tokens(text), self.words(text).split()
            found = TokenCounts(
                tokens=sum(token not in self._special_ids for token in tokens),
                unknown=tokens.count(self._unknown_id),
                words=len(words),
                single_token=sum(map(self._is_single_token, words)),
                segmented=self.segmenter != "none" and is_segmented(text),
            )
            counts = TokenCounts(*map(add, counts, found))
        return counts

    def _is_single_token(self, word: str) -> bool:
        known = self._is_single.get(word)
        if known is None:
            ids = self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(word))
            known = len(ids) == 1 and ids[0] != self._unknown_id
            _remember(self._is_single, word, known)
        return known


@dataclass(frozen=True)
class TranscriptCounter:
    """Finds the facts of transcripts, also as a copy in another process."""

    source: TranscriptTokens
    max_length: int
    """Tokens that the encoder reads at most."""

    def __call__(self, texts: Sequence[str]) -> tuple[Array, list[array[int]]]:
        """Return the facts (N, 7) int32 of normalized transcripts, see `FACTS`, and their token ids."""
        facts, tokens = np.zeros((len(texts), len(FACTS)), np.int32), []
        for i, text in enumerate(texts):  # one after the other: only the words of the last one are remembered
            ids = self.source.compact(text) if text else array("i")
            facts[i] = min(len(ids), self.max_length), len(ids) > self.max_length, *self.source.count([text])
            tokens.append(ids)
        return facts, tokens

    def can_be_copied(self) -> bool:
        """Tell whether other processes can count: each would start a Java machine of its own for VnCoreNLP."""
        if self.source.segmenter.startswith("vncorenlp") or not Path(self.source.tokenizer.name_or_path).is_dir():
            return False
        try:
            pickle.dumps(self)
        except Exception:  # for example a class of this process alone; many types
            return False
        return True


def _load(
    tokenizer_class: Any, folder: str, settings: Mapping[str, Any], segmenter: str, tone_style: str
) -> TranscriptTokens:
    """Load a tokenizer once more; ValueError if it has other settings now."""
    tokenizer = tokenizer_class.from_pretrained(folder, trust_remote_code=False)
    if tokenizer_settings(tokenizer) != settings:
        raise ValueError(f"{folder} holds another tokenizer now")
    return TranscriptTokens(tokenizer, segmenter, tone_style)


def _remember(known: dict[str, Any], text: str, value: Any) -> None:
    """Add a value to those of other texts, which are forgotten if there are too many."""
    if len(known) == MAX_KNOWN:
        known.clear()
    known[text] = value
