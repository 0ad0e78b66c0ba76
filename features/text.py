"""Transcripts: one normal form, so that the same words are the same text; tone styles and word segmenters."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from importlib.metadata import version

from features.errors import InputError

ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters that show nothing and would split or double a word: removed."""
TONES = "\u0300\u0301\u0309\u0303\u0323"
"""Grave, acute, hook above, tilde, dot below: the combining tone marks."""
SEGMENTERS = ("underthesea", "pyvi", "none")
TONE_STYLES = ("keep", "old", "new")


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
    """Return text with the tone of open oa, oe and uy on the first letter (`old`: hòa) or the second (`new`: hoà).

    The u of qu is no vowel: quý stays.
    """
    if style == "keep":
        return text
    decomposed = unicodedata.normalize("NFD", text)
    end = r"(?![\w\u0300-\u036f])"
    if style == "old":
        pattern, replacement = rf"(o)([ae])([{TONES}]){end}|(?<!q)(u)(y)([{TONES}]){end}", r"\1\4\3\6\2\5"
    else:
        pattern, replacement = rf"(o)([{TONES}])([ae]){end}|(?<!q)(u)([{TONES}])(y){end}", r"\1\4\3\6\2\5"
    return unicodedata.normalize("NFC", re.sub(pattern, replacement, decomposed, flags=re.IGNORECASE))


def load_segmenter(name: str) -> tuple[Callable[[str], str], str]:
    """Return a word segmenter (text -> text with the syllables of a word joined by _) and its name with version.

    InputError where its package is not installed.
    """
    if name == "none":
        return str, "none"
    try:
        if name == "underthesea":
            from underthesea import word_tokenize

            return lambda text: str(word_tokenize(text, format="text")), f"underthesea {version('underthesea')}"
        from pyvi import ViTokenizer

        return lambda text: str(ViTokenizer.tokenize(text)), f"pyvi {version('pyvi')}"
    except ImportError as error:
        raise InputError(
            f"the word segmenter {name} is not installed ({error}): pip install 'mervn[segment]', or give --segmenter "
            f"{' or '.join(other for other in SEGMENTERS if other != name)}"
        ) from error
