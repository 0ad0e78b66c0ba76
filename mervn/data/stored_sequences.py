"""Sequences of a split: read from the memory-mapped store, or resident in memory or on a GPU."""

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
from features.store.mapped import unmarked
from features.store.reader import FeatureStore
from features.store.stored_inputs import StoredInputs

MEMORY_FRACTION = 0.5
"""Fraction of the free memory that features may fill if no budget is given."""
CHUNK_BYTES = 1 << 26
"""Maximum bytes of features that are copied to a GPU at once."""


class Sequences:
    """N sequences (T_i, D) of one store, in the order of a split.

    The crc32 of each sequence is checked before its first use.
    """

    def __init__(self, store: FeatureStore, inputs: StoredInputs) -> None:
        self.store, self._places, self._crc32 = store, inputs.places, inputs.crc32
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(inputs.lengths)])
        """(N + 1,) int64: index of the first frame of each sequence if all are concatenated, and their number."""
        self._first = store.first_frames(self._places)
        self._checked = np.zeros(len(self), bool)
        self._flat: Tensor | None = None

    @classmethod
    def of(cls, store: FeatureStore, utterance_ids: Iterable[str]) -> Sequences:
        """Return the sequences of these utterances."""
        return cls(store, store.inputs(store.places(utterance_ids)))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def sizes(self) -> np.ndarray[Any, Any]:
        """T_i of each sequence, (N,) int64."""
        return np.diff(self.starts)

    def sizes_of(self, indices: Sequence[int]) -> list[int]:
        """Return T_i of the sequences at `indices`."""
        chosen = np.asarray(indices, np.int64)
        sizes: list[int] = self.lengths_of(chosen).tolist()
        return sizes

    def lengths_of(self, chosen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return T_i of the sequences at indices (K,), (K,) int64."""
        lengths: np.ndarray[Any, Any] = self.starts[chosen + 1] - self.starts[chosen]
        return lengths

    @property
    def num_bytes(self) -> int:
        """Bytes of all sequences."""
        return int(self.starts[-1]) * self.frame_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame (D,)."""
        return self.store.dim * self.store.dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of the stored features."""
        return torch.from_numpy(np.empty(0, self.store.dtype)).dtype

    @property
    def resident(self) -> bool:
        """Tell whether the sequences lie in memory or on a device as one tensor."""
        return self._flat is not None

    def is_on(self, device: torch.device) -> bool:
        """Tell whether the sequences lie on this device as one tensor."""
        return self._flat is not None and self._flat.device == device

    def load(self, device: torch.device) -> None:
        """Copy all sequences into one tensor (sum T, D) on a device, one chunk at a time."""
        dtype = self.dtype
        flat = torch.empty((int(self.starts[-1]), self.store.dim), dtype=dtype, device=device)
        if device.type == "cpu":
            self._fill(flat, 0, len(self))
        else:
            for first, last in self._chunks():
                start, end = self.starts[[first, last]].tolist()
                host = torch.empty((end - start, self.store.dim), dtype=dtype)
                self._fill(host, first, last)
                flat[start:end].copy_(host)
        self._flat = flat

    def _fill(self, host: Tensor, first: int, last: int) -> None:
        """Copy sequences first..last - 1 into a CPU tensor (sum T, D) of their size.

        Their crc32 is checked.
        """
        values = host.numpy()  # shares the memory of the tensor
        offset = self.starts[first]
        for i in range(first, last):
            place = slice(self.starts[i] - offset, self.starts[i + 1] - offset)
            values[place] = self.store.checked(int(self._places[i]), int(self._crc32[i]))

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges (first, end) of sequences of at most CHUNK_BYTES, or of one larger one."""
        max_frames = CHUNK_BYTES // max(1, self.frame_bytes)
        first = 0
        for end in range(1, len(self) + 1):
            if end == len(self) or self.starts[end + 1] - self.starts[first] > max_frames:
                yield first, end
                first = end

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Return the frames (sum T, D) of the sequences at `indices`, in the store's dtype."""
        if self._flat is not None:
            return torch.cat(self._resident(self._flat, indices))
        return torch.cat(self._read(indices))

    def gather_float(self, indices: Sequence[int]) -> Tensor:
        """Return the frames (sum T, D) of the sequences at `indices` in float32."""
        if self._flat is None or self._flat.device.type != "cpu":
            return self.gather(indices).float()
        found = torch.empty((sum(self.sizes_of(indices)), self.store.dim))
        parts = self._resident(self._flat, indices)
        # copy and cast at once: the memory of a CPU is the limit
        for place, part in zip(found.split(list(map(len, parts))), parts, strict=True):
            place.copy_(part)
        return found

    def take(self, index: Tensor) -> Tensor:
        """Return the frames (K, D) at index (K,) int64 of the resident tensor, in the store's dtype."""
        if self._flat is None:
            raise RuntimeError("sequences must be resident")
        return self._flat.index_select(0, index)

    def _resident(self, flat: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """Return the sequences (T_i, D) at `indices` as views of the resident tensor."""
        chosen = np.asarray(indices, np.int64)
        first, end = self.starts[chosen].tolist(), self.starts[chosen + 1].tolist()
        return [flat[i:j] for i, j in zip(first, end, strict=True)]

    def gather_into(self, host: Tensor, indices: Sequence[int] | np.ndarray[Any, Any]) -> None:
        """Copy the frames of the sequences at `indices` into a CPU tensor (sum T, D) of the store's dtype."""
        # not by NumPy, which would take Python's lock again for each sequence, while a GPU waits for it
        if len(indices):
            torch.cat(self._read(indices), out=host)

    def _read(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> list[Tensor]:
        """Return sequences (T_i, D) in the memory of the store; the crc32 of each is checked the first time."""
        chosen = np.asarray(indices, np.int64)
        places, are_checked = self._places[chosen], self._checked[chosen]
        if are_checked.all():
            sequences = self.store.values_of(places, self._first[chosen], self.lengths_of(chosen))
            return list(map(torch.from_numpy, sequences))
        found = []
        columns = (places.tolist(), self._crc32[chosen].tolist(), are_checked.tolist())
        for place, crc32, is_checked in zip(*columns, strict=True):
            values = self.store.values(place) if is_checked else self.store.checked(place, crc32)
            found.append(torch.from_numpy(unmarked(values)))
        self._checked[chosen] = True
        return found


def make_resident(
    sequences: Iterable[Sequences], device: torch.device, memory_gb: float | None, reporter: Reporter
) -> None:
    """Load the sequences onto the device if all fit into the budget of `memory_gb` gigabytes.

    Otherwise batches read them from disk. The default budget is half of the free memory. Results do
    not depend on it.
    """
    not_loaded = []
    size = 0
    for each in sequences:
        if not each.resident:
            not_loaded.append(each)
            size += each.num_bytes
    if not not_loaded:
        return
    if memory_gb is not None:
        budget, limit = memory_gb * 1e9, f"the budget of {memory_gb:g} GB"
    else:
        free = available_bytes(device)
        budget, limit = MEMORY_FRACTION * free, f"half of the {free / 1e9:.1f} GB free"
    place = f"on {device}" if device.type != "cpu" else "in memory"
    if size <= budget:
        for each in not_loaded:
            each.load(device)
        reporter.say(f"{size / 1e9:.2f} GB of features resident {place}: they fit into {limit}")
    else:
        reporter.say(f"{size / 1e9:.2f} GB of features streamed from disk: they do not fit into {limit} {place}")


def available_bytes(device: torch.device) -> int:
    """Return the free bytes of a device.

    For the CPU these are at most what the memory limit of the control group (cgroup v2) leaves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Only Linux reports the free memory; elsewhere all memory counts as free.
    with suppress(OSError, LookupError, ValueError):
        free = 1024 * _field(Path("/proc/meminfo"), "MemAvailable:")
    # ValueError: the limit "max" means that there is none.
    with suppress(OSError, LookupError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("utf-8"))
        # Inactive file cache counts as used, but the kernel drops it when memory is needed.
        reclaimable = _field(group / "memory.stat", "inactive_file")
        free = min(free, limit - int((group / "memory.current").read_text("utf-8")) + reclaimable)
    return max(0, free)


def _field(file: Path, name: str) -> int:
    """Return the number after `name` in a file of `name number` lines; LookupError if missing."""
    for line in file.read_text("utf-8").splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise LookupError(f"{file} has no {name}")
