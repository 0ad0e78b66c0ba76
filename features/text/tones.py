"""Exchange of Vietnamese tone marks: the same letters with other tones."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from features.text.normalize import LETTER, TONES

MARKS = "[\u0300-\u036f]*"
SYLLABLE = re.compile(rf"(?:{LETTER}{MARKS})+")
"""Letters with their combining marks, in decomposed text."""
MARKED_LETTER = re.compile(rf"({LETTER})({MARKS})")
STOP_CODA = re.compile(r"(?:c|ch|p|t)\Z", re.IGNORECASE)
ACUTE, DOT_BELOW = "\u0301", "\u0323"


def exchange_tones(text: str, random: np.random.Generator) -> str:
    """Give each syllable that has a tone mark another tone mark, on the same letter; return NFC text.

    The new mark is drawn from the other four with equal probability. A syllable that ends in c, ch,
    p or t can only have an acute or a dot below, so its new mark is one of these two. Syllables
    without a mark, or with several, do not change.
    """

    def exchange(match: re.Match[str]) -> str:
        found = [mark for mark in match[0] if mark in TONES]
        if len(found) != 1:
            return match[0]
        letters = MARKED_LETTER.sub(r"\1", match[0])
        possible = ACUTE + DOT_BELOW if STOP_CODA.search(letters) else TONES
        others = [mark for mark in possible if mark != found[0]]
        new = others[int(random.integers(len(others)))]

        def place(letter: re.Match[str]) -> str:
            if found[0] not in letter[2]:
                return letter[0]
            # the tone comes last: only then does a + circumflex + acute compose to one letter
            return letter[1] + letter[2].replace(found[0], "") + new

        return MARKED_LETTER.sub(place, match[0])

    return unicodedata.normalize("NFC", SYLLABLE.sub(exchange, unicodedata.normalize("NFD", text)))
