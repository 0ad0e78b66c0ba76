"""Text normalization: equal words get equal text. Also the two styles of Vietnamese tone marks."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import NamedTuple

ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Invisible characters, which would make two spellings of one word; they are removed."""
TONES = "\u0300\u0301\u0309\u0303\u0323"
"""The combining tone marks: grave, acute, hook above, tilde, dot below."""
TONE_STYLES = ("keep", "old", "new")
LETTER = r"[^\W\d_]"
MOVABLE = re.compile(
    rf"(q?)(o(?=[{TONES}]?[ae])|u(?=[{TONES}]?y))([{TONES}]?)([aey])([{TONES}]?)(?![\u0300-\u036f])(?=({LETTER})?)",
    re.IGNORECASE,
)
"""oa, oe or uy in decomposed text. Groups: q, first vowel, its tone, second vowel, its tone,
coda."""


def normalize_text(text: str) -> str:
    """Normalize text to NFC, remove zero-width characters, and collapse and strip white space.

    NFC and not NFKC, because compatibility forms carry meaning. Case and tone marks do not change.
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(ZERO_WIDTH)).split())


def syllables(text: str) -> list[str]:
    """Split text at white space: Vietnamese writes a space between syllables, not words."""
    return text.split()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a normalized transcript."""
    return text_digest(text).hex()


def text_digest(text: str) -> bytes:
    """Return the 32 bytes of `text_sha256`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def apply_tone_style(text: str, style: str) -> str:
    """Move the tone marks of oa, oe and uy to their place in a style; return NFC text.

    `old` puts a mark on the first letter (hòa), `new` on the second (hoà); `keep` returns the text
    unchanged. Both styles put it on the second letter before a coda (hoàn) and in quy, whose u is
    not a vowel (quý). A space, `_`, a digit or punctuation ends a syllable.
    """
    if style == "keep":
        return text

    def place(match: re.Match[str]) -> str:
        q, first, on_first, second, on_second, coda = match.groups()
        if on_first and on_second:  # two tones: not a Vietnamese syllable
            return match[0]
        tone = on_first or on_second
        if style == "new" or q or coda:
            return q + first + second + tone
        return q + first + tone + second

    return unicodedata.normalize("NFC", MOVABLE.sub(place, unicodedata.normalize("NFD", text)))


def is_segmented(text: str) -> bool:
    """Tell whether the syllables of words are already joined by `_` (sinh_viên)."""
    return re.search(rf"{LETTER}_{LETTER}", text) is not None


def segmented_message(count: int) -> str:
    """Return the warning about transcripts that are already segmented."""
    return (
        f"{count} transcripts are segmented already (syllables joined by _) and are not segmented "
        "again; pass all transcripts unsegmented, or all segmented with --segmenter none"
    )


class TokenCounts(NamedTuple):
    """Token statistics of transcripts."""

    tokens: int
    """Number of tokens, without special tokens."""
    unknown: int
    """Number of `<unk>` tokens."""
    words: int
    """Number of words, separated by white space after segmentation."""
    single_token: int
    """Number of words that are a single token of the vocabulary."""
    segmented: int
    """Number of transcripts that were already segmented."""

    @property
    def unk_fraction(self) -> float:
        """Fraction of tokens that are `<unk>`."""
        return round(self.unknown / max(1, self.tokens), 4)

    @property
    def single_token_fraction(self) -> float:
        """Fraction of words that are a single token of the vocabulary."""
        return round(self.single_token / max(1, self.words), 4)
