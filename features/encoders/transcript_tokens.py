"""TranscriptTokens: words and tokens of transcripts, remembered for planning, counting and encoding."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from operator import add
from typing import Any

from features.text.normalize import TokenCounts, apply_tone_style, is_segmented
from features.text.segmenters import load_segmenter

MAX_KNOWN = 1 << 18
"""Maximum number of transcripts, and of words, that are remembered: each transcript takes some 300 bytes."""


class TranscriptTokens:
    """Segments transcripts into words, and splits these into the tokens of a tokenizer of transformers."""

    def __init__(self, tokenizer: Any, segmenter: str, tone_style: str) -> None:
        self.tokenizer, self.tone_style = tokenizer, tone_style
        self._segment, self.segmenter = load_segmenter(segmenter)
        """The name of the segmenter with its version."""
        self._unknown_id = tokenizer.unk_token_id
        self._special_ids = frozenset(tokenizer.all_special_ids) - {self._unknown_id}
        self._last_words = ("", "")
        """The last transcript, and its words."""
        self._tokens: dict[str, array[int]] = {}
        self._is_single: dict[str, bool] = {}
        """Whether a word is a single token of the vocabulary."""

    def words(self, text: str) -> str:
        """Return the words of a normalized transcript, in the tone style and separated by spaces."""
        if text != self._last_words[0]:
            # before segmentation, so that both styles are segmented alike
            styled = apply_tone_style(text, self.tone_style)
            segmented = styled if is_segmented(text) else self._segment(styled)
            # again after it: underthesea changes new to old
            self._last_words = text, apply_tone_style(segmented, self.tone_style)
        return self._last_words[1]

    def tokens(self, text: str) -> list[int]:
        """Return all token ids of a normalized transcript, including special tokens."""
        known = self._tokens.get(text)
        if known is None:
            encoding = self.tokenizer(self.words(text), truncation=False, verbose=False)
            known = array("i", encoding["input_ids"])
            _remember(self._tokens, text, known)
        return known.tolist()

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


def _remember(known: dict[str, Any], text: str, value: Any) -> None:
    """Add a value to those of other texts, which are forgotten if there are too many."""
    if len(known) == MAX_KNOWN:
        known.clear()
    known[text] = value
