"""Freed memory is kept for the next allocation, unless the environment sets how malloc works."""

import mmap
import resource
from collections.abc import Callable

import pytest
import torch

from features.heap import ENVIRONMENT_VARIABLES, keep_freed_memory

SIZE = 96 << 20  # larger than what malloc keeps by itself


def page_faults(work: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def use_fresh_memory() -> None:
    with mmap.mmap(-1, SIZE) as fresh:
        for page in range(0, SIZE, mmap.PAGESIZE):
            fresh[page] = 1


def use_tensor() -> None:
    torch.empty(SIZE, dtype=torch.uint8).fill_(1)


@pytest.mark.parametrize("name", ["", *ENVIRONMENT_VARIABLES])
def test_freed_memory_is_kept_unless_the_user_has_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "1")
    kept = keep_freed_memory()
    if name:
        assert not kept
    elif kept:  # only with glibc
        use_tensor()
        assert page_faults(use_tensor) < page_faults(use_fresh_memory) / 10  # the control: every page is new
