"""Freed memory is kept for the next allocation, unless the environment sets how malloc works."""

import json
import os
import subprocess
import sys

import pytest

from features.heap import ENVIRONMENT_VARIABLES, keep_freed_memory

PAGE_FAULTS = """
import ctypes, json, resource
from features.heap import keep_freed_memory

libc, SIZE = ctypes.CDLL(None), 96 << 20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults()
before = page_faults()
kept = keep_freed_memory()
page_faults()
print(json.dumps([kept, before, page_faults()]))
"""


def test_a_block_that_was_freed_is_used_again() -> None:
    """In a process of its own: a thread that is not the first one has another heap."""
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    kept, before, after = json.loads(done.stdout)
    assert not kept or (before > 100 and after < before / 10)  # only glibc can keep it


@pytest.mark.parametrize("name", ENVIRONMENT_VARIABLES)
def test_a_setting_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
