"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as `1 speaker` or `2 speakers`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
