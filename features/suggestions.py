"""Names near one that is unknown, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEARLY_AS_NEAR = 0.15
"""A name is shown beside the nearest if its similarity is at most this much less."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the names near this one, case aside; empty if there are none."""
    names = {each.casefold(): each for each in known}
    wanted = name.casefold()
    close = difflib.get_close_matches(wanted, names, n=3)
    near = [difflib.SequenceMatcher(None, each, wanted).ratio() for each in close]
    shown = [names[each] for each, ratio in zip(close, near, strict=True) if ratio >= near[0] - NEARLY_AS_NEAR]
    return f"; did you mean {' or '.join(shown)}?" if shown else ""
