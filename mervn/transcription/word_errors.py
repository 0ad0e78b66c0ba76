"""Word error rate of transcripts, with an interval whose unit of evidence is the speaker.

Words are the syllables between spaces, as Vietnamese is written. Both texts are compared in lower
case and NFC, without punctuation and with tone marks in the new style (hoà): none of this is a
mistake that a listener could hear. Numbers in digits are not spelled out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.manifests.manifest import Utterance
from features.text.normalize import apply_tone_style, normalize_text
from mervn.evaluation.intervals import Interval, group_units, ratio_interval

WORD_CATEGORIES = "LMN"
"""First letters of the Unicode categories of words: letters, marks, numbers."""


@dataclass(frozen=True)
class WordErrors:
    """Errors of speech recognition on the utterances of one split that have a transcript."""

    utterances: int
    without_reference: int
    """Number of utterances without a word in their transcript, which are left out."""
    words: int
    """Number of words in the transcripts."""
    substitutions: int
    deletions: int
    insertions: int
    interval: Interval | None
    """By speaker; None with fewer than 4 of them."""
    speakers: int
    """Number of known speakers."""

    @property
    def rate(self) -> float | None:
        """Errors per word of the transcripts, which can exceed 1; None without words."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors / self.words if self.words else None

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"word_error_rate": self.rate, **asdict(self)}


def comparable_text(text: str) -> str:
    """Return a text as it is compared: lower case, NFC, new tone style, without punctuation."""
    kept = []
    for character in normalize_text(text).lower():
        kept.append(character if unicodedata.category(character)[0] in WORD_CATEGORIES else " ")
    return " ".join(apply_tone_style("".join(kept), "new").split())


def count_word_errors(utterances: Sequence[Utterance], texts: Mapping[str, str]) -> WordErrors:
    """Compare recognised texts, by utterance id, with the transcripts of these utterances.

    Utterances without a text are left out: their audio was rejected.
    """
    import jiwer

    recognised = [utterance for utterance in utterances if utterance.utterance_id in texts]
    compared, counts = [], []
    for utterance in recognised:
        reference = comparable_text(utterance.transcript or "")
        if reference:
            found = jiwer.process_words(reference, comparable_text(texts[utterance.utterance_id]))
            compared.append(utterance)
            counts.append((len(reference.split()), found.substitutions, found.deletions, found.insertions))
    left_out = len(recognised) - len(compared)
    if not compared:
        return WordErrors(0, left_out, 0, 0, 0, 0, None, 0)
    numbers = np.array(counts, dtype=np.int64)  # (N, 4)
    units = group_units([utterance.speaker_id for utterance in compared])
    interval = ratio_interval(numbers[:, 1:].sum(1), numbers[:, 0], units)
    speakers = len({utterance.speaker_id for utterance in compared} - {None})
    words, substitutions, deletions, insertions = map(int, numbers.sum(0))
    return WordErrors(len(compared), left_out, words, substitutions, deletions, insertions, interval, speakers)
