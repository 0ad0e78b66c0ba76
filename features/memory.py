"""Batches within a device's memory: one that does not fit is halved, and the cost that fits is remembered."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")
BATCH_SECONDS = {"cpu": 8.0, "cuda": 480.0}
BATCH_TOKENS = {"cpu": 2048.0, "cuda": 32768.0}
FULL_BUDGET_BYTES = 16e9
"""Memory of a GPU that gets the full budget; smaller ones begin with less, so that fewer batches must be halved."""
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""In the messages of the plain RuntimeErrors of torch's CPU allocator, CUDA, cuBLAS and cuDNN."""


def default_budget(modality: str, device: torch.device) -> float:
    """Return the padded seconds or tokens of a batch where neither a flag nor the store says.

    A GPU with less than `FULL_BUDGET_BYTES` has a budget in proportion, at least that of a CPU.
    """
    budgets = BATCH_TOKENS if modality == "text" else BATCH_SECONDS
    if device.type != "cuda":
        return budgets["cpu"]
    total = torch.cuda.get_device_properties(device).total_memory
    return max(budgets["cpu"], budgets["cuda"] * min(1.0, total / FULL_BUDGET_BYTES))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the memory of the CPU or of a device is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_memory(device: torch.device) -> None:
    """Free what only cycles or the device's allocator still hold."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class MemoryBudget:
    """The largest batches that fit into a device's memory, found out by halving those that do not."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.limit = math.inf
        """Padded cost of a batch: its maximum cost times its number of items."""

    def run(
        self, batch: Sequence[int], costs: Sequence[float], compute: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result | None]]:
        """Compute a batch whole, or in parts in its order; None is the result of a single item that does not fit.

        `costs` holds the cost of each item, by its number in the batch's list.
        """
        pending = [list(batch)] if batch else []
        while pending:
            part = pending.pop()
            padded = max(costs[i] for i in part) * len(part)
            if padded <= self.limit or len(part) == 1:
                result = self._attempt(part, compute)
                if result is not None or len(part) == 1:
                    yield part, result
                    continue
                self.limit = min(self.limit, padded / 2)
            middle = len(part) // 2
            pending += [part[middle:], part[:middle]]

    def _attempt(self, part: list[int], compute: Callable[[list[int]], Result]) -> Result | None:
        try:
            return compute(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # the exception had to go first: its traceback held the frames of the forward pass, and they the activations
        release_memory(self.device)
        return None
