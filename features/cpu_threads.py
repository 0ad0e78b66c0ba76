"""CPU threads of torch, and how long they spin while they wait.

After each parallel part of an operation the threads of GNU OpenMP, with which torch's wheels for Linux are built, spin
for some milliseconds in case more work follows. With several processes per machine each spinning thread takes a core
from a thread that has work. A bounded spin keeps the gain of spinning within a training step and none of the harm.
"""

from __future__ import annotations

import os
import sys

SPIN_COUNT = "1000"
"""Iterations; the library's own default is 300 000. benchmarks/benchmark_two_at_once.py measures what it changes."""
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def bound_spinning() -> bool:
    """Bound how long idle OpenMP threads spin, unless the environment says; return whether it could be done.

    The library reads its environment once, when torch is loaded: a later call changes nothing.
    """
    if "torch" in sys.modules or any(name in os.environ for name in CHOICES):
        return False
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    return True


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch; its own choice, one per core, if None."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
