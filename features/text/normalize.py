"""Transcripts: one normal form, so that the same words are the same text, and the two styles of tone marks."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters that show nothing and would split or double a word: removed."""
TONES = "\u0300\u0301\u0309\u0303\u0323"
"""Grave, acute, hook above, tilde, dot below: the combining tone marks."""
TONE_STYLES = ("keep", "old", "new")
LETTER = r"[^\W\d_]"
MOVABLE = re.compile(
    rf"(q?)(o(?=[{TONES}]?[ae])|u(?=[{TONES}]?y))([{TONES}]?)([aey])([{TONES}]?)(?![\u0300-\u036f])(?=({LETTER})?)",
    re.IGNORECASE,
)
"""oa, oe or uy with at most a tone mark on each letter, in decomposed text: q, first, mark, second, mark, coda."""


def normalize_text(text: str) -> str:
    """Return NFC text without zero-width characters, runs of white space made one space, ends stripped.

    NFC and not NFKC: compatibility forms carry meaning. Case and tone marks stay as they are.
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(ZERO_WIDTH)).split())


def syllables(text: str) -> list[str]:
    """Return the white-space syllables; Vietnamese writes a space between syllables, not between words."""
    return text.split()


def text_sha256(text: str) -> str:
    """Hash a normalised transcript."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def apply_tone_style(text: str, style: str) -> str:
    """Return NFC text with the tone of oa, oe and uy on the first letter (`old`: hòa) or the second (`new`: hoà).

    Both styles write it on the second letter before a coda (hoàn) and in quy, whose u is no vowel (quý). A space, `_`,
    a digit or punctuation ends a syllable.
    """
    if style == "keep":
        return text

    def place(match: re.Match[str]) -> str:
        q, first, on_first, second, on_second, coda = match.groups()
        if on_first and on_second:  # two tones: no Vietnamese syllable
            return match[0]
        tone = on_first or on_second
        return q + (first + second + tone if style == "new" or q or coda else first + tone + second)

    return unicodedata.normalize("NFC", MOVABLE.sub(place, unicodedata.normalize("NFD", text)))


def is_segmented(text: str) -> bool:
    """Tell whether syllables are joined into words by `_` already (sinh_viên)."""
    return re.search(rf"{LETTER}_{LETTER}", text) is not None


def segmented_message(count: int) -> str:
    """Return the warning of transcripts whose words came joined by `_`."""
    return (
        f"{count} transcripts are segmented already (syllables joined by _) and are not segmented again; give all "
        "transcripts raw, or all segmented with --segmenter none"
    )


@dataclass(frozen=True)
class TokenCounts:
    """What a tokenizer made of transcripts."""

    tokens: int
    """Without special tokens."""
    unknown: int
    """Tokens that are `<unk>`."""
    words: int
    """As separated by white space, after segmentation."""
    single_token: int
    """Words that are one token of the vocabulary."""
    segmented: int
    """Transcripts that came with their words joined by `_`, and were not segmented again."""

    @property
    def unk_fraction(self) -> float:
        """Fraction of tokens that are `<unk>`."""
        return round(self.unknown / max(1, self.tokens), 4)

    @property
    def single_token_fraction(self) -> float:
        """Fraction of words that are one token of the vocabulary."""
        return round(self.single_token / max(1, self.words), 4)
