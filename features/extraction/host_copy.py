"""HostCopy: features on their way from a device to the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from features.ragged import Ragged
from features.store.mapped import Array


class HostCopy:
    """Copy (sum T, D) of one layer's output to the host, in float32.

    From a GPU, the copy into pinned memory runs after the forward pass, and nothing waits for it
    until `sequences` is called.
    """

    def __init__(self, output: Ragged) -> None:
        self._sizes = output.sizes
        self._copied: torch.cuda.Event | None = None
        values = output.values.float()
        if values.device.type != "cuda":
            self._values = self._rounded = values.cpu()
            return
        self._values = self._rounded = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._copied = torch.cuda.Event()
        # of the device of the values, which may not be the current one
        self._copied.record(torch.cuda.current_stream(values.device))

    @property
    def num_bytes(self) -> int:
        """Bytes on the host."""
        return self._values.nbytes

    def wait(self) -> None:
        """Wait for the copy."""
        if self._copied is not None:
            self._copied.synchronize()

    def fits(self, dtype: torch.dtype) -> bool:
        """Wait for the copy; tell whether all values are finite once they are rounded to a dtype."""
        return is_finite(self._round(dtype).numpy())

    def sequences(self, dtype: torch.dtype = torch.float32) -> list[Array]:
        """Wait for the copy and return the B sequences (T_i, D), rounded to a dtype."""
        return [sequence.numpy() for sequence in self._round(dtype).split(self._sizes)]

    def _round(self, dtype: torch.dtype) -> torch.Tensor:
        """Wait for the copy and return it in a dtype."""
        self.wait()
        if self._rounded.dtype != dtype:
            # all at once, and by torch: NumPy rounds to float16 several times slower
            self._rounded = self._values.to(dtype)
        return self._rounded


@dataclass(frozen=True)
class Outputs:
    """Outputs of those inputs of a batch that were encoded together."""

    indices: list[int]
    """Indices of the inputs in their batch."""
    layers: list[HostCopy] | None
    """One per layer; None if the only input does not fit into memory."""

    @property
    def num_bytes(self) -> int:
        """Bytes on the host."""
        return sum(layer.num_bytes for layer in self.layers or ())


def is_finite(values: Array) -> bool:
    """Tell whether all values, float16 or float32, are finite.

    Of the bit patterns of each sign, infinity and NaN are the largest. For float16, two maxima of integers take a
    fifteenth of the time of `np.isfinite`.
    """
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    infinity = np.array([np.inf, -np.inf], np.float16)
    return bool(
        values.view(np.int16).max(initial=0) < infinity.view(np.int16)[0]
        and values.view(np.uint16).max(initial=0) < infinity.view(np.uint16)[1]
    )
