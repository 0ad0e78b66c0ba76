"""An error of one process ends all of them with its message: two processes over gloo, with nobody to end them."""

import signal
import time
from dataclasses import dataclass

import pytest
from warm_process import start_ranks

from features.errors import InputError
from mervn.fault_watch import describe, portable

DRIVER = """
import os, signal, sys, time
from features.errors import InputError
from mervn.distributed import joined

class Odd(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")

def fail(error):
    raise error

with joined("cpu") as (processes, device):
    processes.gather(processes.process_index)
    WORK
    print("after")
print("done")
"""
FAULTS = {
    "on_main: KeyError": ("processes.on_main_process(lambda: fail(KeyError('missing')))", "KeyError: 'missing'"),
    "on_main: MemoryError": ("processes.on_main_process(lambda: fail(MemoryError()))", "MemoryError"),
    "on_main: interrupt": ("processes.on_main_process(lambda: fail(KeyboardInterrupt()))", "KeyboardInterrupt"),
    "on_main: an error that cannot be pickled": ("processes.on_main_process(lambda: fail(Odd(1, 2)))", "Odd: 1 and 2"),
    "on_main: a result that cannot be pickled": ("processes.on_main_process(lambda: (lambda: 1))", "pickle"),
    "main alone": (
        "processes.is_main_process and fail(RuntimeError('out of memory')); processes.gather(1)",
        "out of memory",
    ),
    "other alone": ("processes.is_main_process or fail(KeyError('lost')); processes.gather(1)", "KeyError: 'lost'"),
    "other alone: changed file": (
        "processes.is_main_process or fail(InputError('a.wav has changed')); processes.gather(1)",
        "a.wav has",
    ),
    "other alone, main busy": (
        "time.sleep(60) if processes.is_main_process else fail(InputError('b.wav has changed'))",
        "b.wav has changed",
    ),
}


PATIENCE = "import mervn.fault_watch; mervn.fault_watch.PATIENCE_S = 1.0; "  # a killed process reads no message
KILLED = {
    f"{rank} is killed": f"processes.process_index == {rank} and os.kill(os.getpid(), signal.SIGKILL)"
    for rank in (0, 1)
}
FINE = "no fault"
WORK = {
    **{name: work for name, (work, _) in FAULTS.items()},
    **{name: f"{PATIENCE}{work}; processes.gather(1)" for name, work in KILLED.items()},
    FINE: "assert processes.on_main_process(lambda: 7) == 7; processes.is_main_process and time.sleep(2)",
}
"""What each pair of processes does."""


@dataclass(frozen=True)
class Ended:
    """A pair of processes that has ended."""

    codes: list[int]
    printed: list[str]


@pytest.fixture(scope="module")
def ended() -> dict[str, Ended]:
    """Run all pairs as srun would, at the same time: each of them waits more than it works."""
    started = time.monotonic()
    pairs = {name: start_ranks(DRIVER.replace("WORK", work), [], 2) for name, work in WORK.items()}
    found: dict[str, Ended] = {}
    for name, pair in pairs.items():
        done = [process.finish(60) for process in pair]
        found[name] = Ended([each.returncode for each in done], [each.stdout + each.stderr for each in done])
    assert time.monotonic() - started < 50
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_process_ends_both_with_its_message(ended: dict[str, Ended], name: str) -> None:
    assert all(ended[name].codes), ended[name]
    for text in ended[name].printed:
        assert FAULTS[name][1] in text and "after" not in text


@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_name_a_process_that_was_killed(ended: dict[str, Ended], killed: int) -> None:
    """Regression test: their only message was that of gloo, `Connection reset by peer`."""
    found = ended[f"{killed} is killed"]
    assert (found.codes[killed], found.codes[1 - killed]) == (-signal.SIGKILL, 1)
    last = found.printed[1 - killed].strip().splitlines()[-1]
    assert last.startswith(f"features.errors.InputError: process {killed} of 2 ended without a message"), found


def test_processes_without_a_fault_end_as_they_should(ended: dict[str, Ended]) -> None:
    assert ended[FINE].codes == [0, 0] and all("after\ndone" in text for text in ended[FINE].printed)


class _OddError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first}, {second}")


def test_an_error_travels_as_itself_where_it_can() -> None:
    assert portable(InputError("no")).args == ("no",) and isinstance(portable(InputError("no")), InputError)
    told = portable(_OddError(1, 2))
    assert isinstance(told, RuntimeError) and str(told) == "_OddError: 1, 2"
    assert describe(InputError("no")) == "no" and describe(MemoryError()) == "MemoryError"
    assert describe(KeyboardInterrupt()) == "interrupted"
