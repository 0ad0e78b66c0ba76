"""Seeds of torch's generators: those of the CPU and of the device in use, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_torch(device: torch.device, seed: int) -> None:
    """Seed the generators of the CPU and of this device.

    `torch.manual_seed` would seed every GPU of the process.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and of this device, and restore their states on exit."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_torch(device, seed)
        yield
