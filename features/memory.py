"""Batches within a device's memory: a batch that does not fit is split in half.

Later batches stay below its size.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Result = TypeVar("Result")
BATCH_SECONDS = {"cpu": 8.0, "cuda": 480.0}
"""Default budget of an audio batch by device, in seconds with padding."""
BATCH_TOKENS = {"cpu": 2048.0, "cuda": 32768.0}
"""Default budget of a text batch by device, in tokens with padding."""
FULL_BUDGET_BYTES = 16e9
"""Memory of a GPU that gets the full budget; smaller GPUs start with less, so that fewer batches
must be halved."""
OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""Texts in plain RuntimeErrors of torch's CPU allocator, CUDA, cuBLAS and cuDNN."""


def default_budget(modality: str, device: torch.device) -> float:
    """Return the default budget of a batch, in seconds or tokens with padding.

    A GPU with less than `FULL_BUDGET_BYTES` gets a budget in proportion to its memory, at least
    that of a CPU.
    """
    budgets = BATCH_TOKENS if modality == "text" else BATCH_SECONDS
    if device.type != "cuda":
        return budgets["cpu"]
    total = torch.cuda.get_device_properties(device).total_memory
    return max(budgets["cpu"], budgets["cuda"] * min(1.0, total / FULL_BUDGET_BYTES))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of the CPU or of a device is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(text in message for text in OUT_OF_MEMORY_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Free memory that is held only by reference cycles or by the device's caching allocator."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class MemoryBudget:
    """Runs batches within a device's memory.

    It learns the maximum cost of a batch by halving batches that do not fit.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.limit = math.inf
        """Maximum padded cost of a batch: the maximum cost of its items times their number."""

    def run(
        self, batch: Sequence[int], costs: Sequence[float], compute: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result | None]]:
        """Yield the items and results of a batch, computed at once or in parts, in order.

        The result is None for a single item that does not fit. `costs[i]` is the cost of item i;
        the cost of a batch is its maximum cost times its number of items.
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
            pending += [part[middle:], part[:middle]]  # a stack: the first half comes next

    def _attempt(self, part: list[int], compute: Callable[[list[int]], Result]) -> Result | None:
        """Return the result of `compute`, or None if the memory is full."""
        try:
            return compute(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Free memory only here, after the `except` block: the traceback of the exception keeps the
        # activations of the forward pass alive.
        release_memory(self.device)
        return None
