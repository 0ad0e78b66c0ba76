"""Durations as text for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a duration in a unit that suits it, such as 0.34 s, 12 s, 3.5 min or 2.1 h."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 120 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
