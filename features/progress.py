"""How long work tells people of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

Say = Callable[[str], None]
"""Prints a line about what is going on."""
Progress = Callable[..., Any]
"""(total, done, what="") -> a progress bar of so many utterances, so many done, with `update(n)` and `close()`."""


def silent(line: str) -> None:
    """Print nothing."""


def no_bar(total: int, done: int, what: str = "") -> Any:
    """Return a progress bar that is not shown."""
    return tqdm(total=total, initial=done, disable=True)
