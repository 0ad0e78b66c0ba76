"""Names of emotions: one normal form, and the names that a reader would take for the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from features.text.normalize import ZERO_WIDTH, apply_tone_style


def normalize_label(label: str) -> str:
    """Return an emotion in NFC without white space at its ends."""
    return unicodedata.normalize("NFC", label).strip()


def lookalike_key(label: str) -> str:
    """Return what two names share that only look different.

    Case, white space, zero-width characters, compatibility forms and the place of a tone mark (hòa, hoà) do not count.
    """
    plain = unicodedata.normalize("NFKC", label.translate(ZERO_WIDTH)).casefold()
    return "".join(apply_tone_style(unicodedata.normalize("NFC", plain), "new").split())


def lookalikes(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Return each label that looks like one before it, after that one; equal labels do not count."""
    first: dict[str, str] = {}
    found = []
    for label in dict.fromkeys(labels):
        before = first.setdefault(lookalike_key(label), label)
        if before != label:
            found.append((before, label))
    return found


def lookalike_hint(labels: Iterable[str], among: Sequence[str]) -> str:
    """Return which of some unknown labels look like known ones, to end a message with; empty if none does."""
    known = {lookalike_key(label): label for label in among}
    pairs = [(label, known.get(lookalike_key(label))) for label in sorted(set(labels) - set(among))]
    return "".join(f"; {label!r} only looks different from {one!r}" for label, one in pairs if one is not None)
