"""The sequences of a split as batches need them: read from the mapped store, or resident in memory or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.progress import Reporter
from features.store.reader import FeatureStore

SHARE = 0.5
"""Of the free memory, which features may fill where no budget is given."""
CHUNK_BYTES = 1 << 26
"""Of features copied to a GPU at once."""


class Sequences:
    """N sequences (T_i, D) of one store, in the order of a split; the crc32 of each is checked before its first use."""

    def __init__(self, store: FeatureStore, utterance_ids: Sequence[str]) -> None:
        self.store, self.utterance_ids = store, list(utterance_ids)
        self.sizes = [store.num_frames(name) for name in utterance_ids]
        """T_i, each."""
        self._checked = np.zeros(len(self.sizes), bool)
        self._flat: Tensor | None = None
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)]).tolist()

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_bytes(self) -> int:
        """Bytes of all sequences."""
        return int(self._starts[-1]) * self.store.dim * self.store.dtype.itemsize

    @property
    def resident(self) -> bool:
        """Tell whether the sequences lie in memory or on a device as one tensor."""
        return self._flat is not None

    def load(self, device: torch.device) -> None:
        """Copy all sequences into one tensor (sum T, D) on a device; of the host's memory one chunk is used for it."""
        dtype = torch.from_numpy(np.empty(0, self.store.dtype)).dtype
        flat = torch.empty((self._starts[-1], self.store.dim), dtype=dtype, device=device)
        if device.type == "cpu":
            self._fill(flat, 0, len(self))
        else:
            for first, last in self._chunks():
                start, end = self._starts[first], self._starts[last]
                host = torch.empty((end - start, self.store.dim), dtype=dtype)
                self._fill(host, first, last)
                flat[start:end].copy_(host)
        self._flat = flat

    def _fill(self, host: Tensor, first: int, last: int) -> None:
        """Copy the sequences first..last - 1, checked, into a tensor that holds just these."""
        into = host.numpy()
        for i in range(first, last):
            start, end = (self._starts[place] - self._starts[first] for place in (i, i + 1))
            into[start:end] = self.store.check(self.utterance_ids[i])

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of sequences of at most CHUNK_BYTES, or of a single longer one."""
        frames, first = CHUNK_BYTES // max(1, self.store.dim * self.store.dtype.itemsize), 0
        for last in range(1, len(self) + 1):
            if last == len(self) or self._starts[last + 1] - self._starts[first] > frames:
                yield first, last
                first = last

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Return the frames (sum T, D) of some sequences, one after another, in the store's dtype."""
        if self._flat is not None:
            return torch.cat([self._flat[self._starts[i] : self._starts[i + 1]] for i in indices])
        return torch.from_numpy(np.concatenate([self._read(i) for i in indices]))

    def _read(self, index: int) -> np.ndarray[Any, Any]:
        name = self.utterance_ids[index]
        if self._checked[index]:
            return self.store[name]
        self._checked[index] = True
        return self.store.check(name)


def make_resident(
    sequences: Iterable[Sequences], device: torch.device, memory_gb: float | None, reporter: Reporter
) -> None:
    """Load the sequences onto the device if they fit into the budget, else leave them to be read batch by batch.

    Without a budget it is half of the memory that is free. Results do not depend on it.
    """
    wanted = [one for one in sequences if not one.resident]
    if not wanted:
        return
    size = sum(one.num_bytes for one in wanted)
    free = available_bytes(device)
    budget = memory_gb * 1e9 if memory_gb is not None else SHARE * free
    known = f"the budget of {memory_gb:g} GB" if memory_gb is not None else f"half of the {free / 1e9:.1f} GB free"
    place = f"on {device}" if device.type != "cpu" else "in memory"
    if size <= budget:
        for one in wanted:
            one.load(device)
        reporter.say(f"{size / 1e9:.2f} GB of features resident {place}: they fit into {known}")
    else:
        reporter.say(f"{size / 1e9:.2f} GB of features streamed from disk: they do not fit into {known} {place}")


def available_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a device; of the CPU, within what the process's control group may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, StopIteration, ValueError):  # Linux tells what is free, other systems what is there
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # "max" means no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("utf-8"))
        reclaimable = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text("utf-8").splitlines()
            if line.startswith("inactive_file ")
        )
        free = min(free, limit - int((group / "memory.current").read_text("utf-8")) + reclaimable)
    return max(0, free)
