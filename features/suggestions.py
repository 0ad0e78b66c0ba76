"""Suggestions of similar names, for messages about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_GAP = 0.15
"""Maximum difference in similarity to the most similar name, for a name to be suggested."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean A or B?` with the known names most similar to `name`, ignoring case.

    Returns an empty string if no name is similar.
    """
    originals = {each.casefold(): each for each in known}
    wanted = name.casefold()
    suggested: list[str] = []
    best = 0.0
    for candidate in difflib.get_close_matches(wanted, originals, n=3):  # most similar first
        similarity = difflib.SequenceMatcher(None, candidate, wanted).ratio()
        best = max(best, similarity)
        if similarity >= best - MAX_GAP:
            suggested.append(originals[candidate])
    return f"; did you mean {' or '.join(suggested)}?" if suggested else ""
