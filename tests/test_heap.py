"""Freed memory is kept for the next allocation, unless the environment sets how malloc works."""

import json

import pytest
from warm_process import run_warm

from features.heap import ENVIRONMENT_VARIABLES, keep_freed_memory

PAGE_FAULTS = """
import json, resource, torch
from features.heap import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(96 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults()
before = page_faults()
kept = keep_freed_memory()
page_faults()
print(json.dumps([kept, before, page_faults()]))
"""


def test_a_block_that_was_freed_is_used_again() -> None:
    done = run_warm(PAGE_FAULTS, [])
    assert done.returncode == 0, done.stderr
    kept, before, after = json.loads(done.stdout.splitlines()[-1])
    assert not kept or (before > 100 and after < before / 10)  # only glibc can keep it


@pytest.mark.parametrize("name", ENVIRONMENT_VARIABLES)
def test_a_setting_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
