"""CPU threads of torch, and how long they busy-wait for work.

torch's wheels for Linux use GNU OpenMP. After each parallel region its threads spin for some
milliseconds in case more work follows. If several processes run on one machine, each spinning
thread takes a core from a thread that has work. A bounded spin keeps the gain within a training
step and avoids that loss.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_COUNT = "1000"
"""Iterations; the default of GNU OpenMP is 300 000. benchmarks/benchmark_two_at_once.py measures
the effect."""
ENVIRONMENT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def bound_spinning() -> bool:
    """Bound how long idle OpenMP threads spin, unless the environment sets it.

    Return whether it was set here. OpenMP reads its environment once, when torch is imported: a
    later call has no effect.
    """
    if "torch" in sys.modules or any(name in os.environ for name in ENVIRONMENT_VARIABLES):
        return False
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    return True


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch; None keeps its default, one per core."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def leave_cores(processes: int) -> Iterator[None]:
    """Limit torch to the cores that this number of busy processes leave free; at least one thread.

    The limit holds for this thread and for those that it starts. Do not run an encoder on the CPU inside:
    its numbers depend on the number of threads.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, usable_cores() - processes)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
