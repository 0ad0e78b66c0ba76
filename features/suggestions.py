"""Names near one that is unknown, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the names near this one, case aside; empty if there are none."""
    names = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), names, n=3)
    return f"; did you mean {' or '.join(names[each] for each in close)}?" if close else ""
