"""Freed memory that the process keeps, so that a step of training does not ask the kernel for it again.

A step on a CPU allocates and frees some hundred megabytes. glibc returns them to the kernel, and the
next step pays a page fault, and the zeroing of the page, for every 4 KiB.
"""

from __future__ import annotations

import ctypes
import os
import sys

KEPT_BYTES = 1 << 30
"""Free memory at the end of the heap that is kept at most; glibc's default is at most 64 MB."""
SEPARATE_BYTES = 1 << 28
"""A larger block, such as resident features, is returned to the kernel as soon as it is freed."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
ENVIRONMENT_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory, unless the environment sets how; return whether it was set here.

    Only glibc, the C library of most Linux systems, has this setting. No result depends on it.
    """
    if sys.platform != "linux" or any(name in os.environ for name in ENVIRONMENT_VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, SEPARATE_BYTES))
