"""Timing of calls, as ratios of two measured in alternation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def median_ratio(first: Callable[[], float], second: Callable[[], float], rounds: int, warm_up: bool = True) -> float:
    """Return the median of first() / second(), which return seconds, called in alternation."""
    if warm_up:
        first(), second()
    return statistics.median(first() / second() for _ in range(rounds))


def time_ratio(first: Callable[[], object], second: Callable[[], object], rounds: int, warm_up: bool = True) -> float:
    """Return the median of the seconds of `first` / the seconds of `second`, run in alternation."""
    return median_ratio(lambda: seconds_of(first), lambda: seconds_of(second), rounds, warm_up)
