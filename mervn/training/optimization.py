"""Optimization: AdamW, learning-rate schedules, mixed precision, deterministic algorithms."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from features.device import exact_fp32
from features.errors import UsageError
from mervn.model.trainable import ParameterGroup
from mervn.training_options import OptimizerOptions

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Names that Linux gives to the CPU instructions for bf16 multiplication."""


def learning_rate(step: int | float, total: int, warmup: float, peak: float, schedule: str = "cosine") -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then cosine or constant.

    A cosine ends at zero (Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts).
    """
    warmup_steps = max(1, round(warmup * total))
    if step < warmup_steps:
        return peak * min(1.0, (step + 1) / warmup_steps)
    if schedule == "constant":
        return peak
    return _cosine(peak, (step - warmup_steps) / max(1, total - warmup_steps))


def learning_rate_at(progress: float, warmup: float, peak: float) -> float:
    """Return the learning rate at a fraction of the training: linear warm-up, then cosine to zero.

    For training of a fixed duration, whose number of steps is unknown in advance.
    """
    if progress < warmup:
        return peak * progress / warmup
    return _cosine(peak, min(1.0, (progress - warmup) / (1 - warmup)))


def _cosine(peak: float, fraction: float) -> float:
    """Return the learning rate at a fraction of a cosine decay from `peak` to zero."""
    return peak * 0.5 * (1 + math.cos(math.pi * fraction))


def make_optimizer(groups: Sequence[ParameterGroup], options: OptimizerOptions) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) over parameter groups."""
    return torch.optim.AdamW([dict(group) for group in groups], lr=options.learning_rate, fused=True)


def resolve_amp(amp: str, device: torch.device) -> str:
    """Return off, bf16 or fp16; UsageError for fp16 on a CPU.

    `auto` is bf16 if the device has instructions for it, else off.
    """
    if amp == "auto":
        return "bf16" if computes_bf16(device) else "off"
    if amp == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 needs a GPU, found {device}; on a CPU use --amp bf16 or off")
    return amp


def computes_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in BF16_FLAGS)
    except (AttributeError, RuntimeError):  # an older torch, or a wheel without this function
        return bool(BF16_FLAGS & _cpu_flags(CPUINFO))


def _cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the feature flags of an x86 processor under Linux; an empty set on any other."""
    with suppress(OSError):
        for line in cpuinfo.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch use only deterministic algorithms.

    torch raises RuntimeError for an operation that has none. This context also computes fp32
    exactly (no TF32). On a CPU, for a fixed number of threads, the usual algorithms are already
    deterministic. https://pytorch.org/docs/stable/notes/randomness.html
    """
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        # cuBLAS reads it once, at its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled or before)
    try:
        with exact_fp32() if enabled else nullcontext():
            yield
    finally:
        torch.use_deterministic_algorithms(before)


class Precision:
    """Mixed precision: autocast for the forward pass, and loss scaling in fp16.

    Scaling keeps small gradients from underflowing. Micikevicius et al. 2018 (arXiv 1710.03740).
    Parameters, loss and optimizer stay in fp32.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self.amp, self.device = amp, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        # create the state of the scaler now: a process without utterances never has a loss to scale
        self.scaler.scale(torch.zeros((), device=device))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        dtype = torch.float16 if self.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.amp != "off")

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss."""
        self.scaler.scale(loss).backward()

    def step(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
        """Clip the gradients of all parameters, take one optimizer step and clear the gradients."""
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        self.scaler.step(optimizer)  # fp16: skips the step if gradients are inf or NaN
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return the state of the scaler, for a checkpoint."""
        return dict(self.scaler.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        if state:
            self.scaler.load_state_dict(state)
