"""Transcripts: one normal form, so that the same words are the same text."""

from __future__ import annotations

import hashlib
import unicodedata

ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters that show nothing and would split or double a word: removed."""


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
