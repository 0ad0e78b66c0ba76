"""Emotion labels: their normal form, and different labels that look the same to a reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from features.text.normalize import ZERO_WIDTH, apply_tone_style


def normalize_label(label: str) -> str:
    """Return a label in NFC without leading and trailing white space."""
    return unicodedata.normalize("NFC", label).strip()


def lookalike_key(label: str) -> str:
    """Return a key that is equal for labels that look the same.

    It ignores case, white space, zero-width characters, compatibility forms and the position of a
    tone mark (hòa, hoà).
    """
    plain = unicodedata.normalize("NFKC", label.translate(ZERO_WIDTH)).casefold()
    return "".join(apply_tone_style(unicodedata.normalize("NFC", plain), "new").split())


def lookalikes(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs (earlier label, later label) of different labels that look the same."""
    first: dict[str, str] = {}
    found = []
    for label in dict.fromkeys(labels):
        before = first.setdefault(lookalike_key(label), label)
        if before != label:
            found.append((before, label))
    return found


def lookalike_hint(labels: Iterable[str], among: Sequence[str]) -> str:
    """Return the end of a message: unknown labels that look the same as one of `among`.

    Returns an empty string if there are none.
    """
    known = {lookalike_key(label): label for label in among}
    hint = ""
    for label in sorted(set(labels) - set(among)):
        similar = known.get(lookalike_key(label))
        if similar is not None:
            hint += f"; {label!r} looks the same as {similar!r}"
    return hint
