"""Devices and precision: bf16 autocast, or fp32 without TF32 or bf16 inside operations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from features.errors import UsageError


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device.

    A copy from host to GPU uses pinned memory, so that the host does not wait for it.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class _ExactFp32:
    """The settings of torch are those of the whole process: they are changed once for all contexts."""

    def __init__(self) -> None:
        self._lock, self._depth = threading.Lock(), 0
        self._before: tuple[tuple[str, bool], list[str]] = ("highest", True), []

    def enter(self) -> None:
        """Disable TF32 and bf16, unless another context has done so."""
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._before = _old_switches(), [switch.fp32_precision for switch in _new_switches()]
                _set_old_switches("highest", False)
                for switch in _new_switches():
                    switch.fp32_precision = "ieee"

    def leave(self) -> None:
        """Restore the previous settings after the last context."""
        with self._lock:
            self._depth -= 1
            if not self._depth:
                _set_old_switches(*self._before[0])
                for switch, precision in zip(_new_switches(), self._before[1], strict=True):
                    switch.fp32_precision = precision


_EXACT_FP32 = _ExactFp32()


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Disable TF32 and bf16 in fp32 matrix products, convolutions and recurrent layers.

    By default torch uses TF32 (10 bits of mantissa) for convolutions and LSTMs on a GPU, and its
    kernels depend on the shape of the batch. All inference whose numbers are reported runs inside
    this context. Several threads can be inside at once; the previous settings are restored when the
    last one leaves. torch 2.9 added a second set of switches; it is kept equal to the first, because
    torch refuses a mix.
    """
    _EXACT_FP32.enter()
    try:
        yield
    finally:
        _EXACT_FP32.leave()


@contextmanager
def precision_context(device: torch.device, precision: str) -> Iterator[None]:
    """Run operations in bf16 (autocast, if `precision` is "bf16") or in exact fp32."""
    with exact_fp32(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def _old_switches() -> tuple[str, bool]:
    """Return the precision of matrix products and whether cuDNN may use TF32.

    torch refuses to read them if the new switches have a value that the old ones cannot express. In
    that case, returns torch's defaults.
    """
    matmul, cudnn = "highest", True
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        cudnn = torch.backends.cudnn.allow_tf32
    return matmul, cudnn


def _set_old_switches(matmul: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


def _new_switches() -> list[Any]:
    """Return the torch backends with an `fp32_precision` attribute; none before torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    gpu = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    cpu = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return gpu + cpu


def resolve_device(name: str, *, float64: bool = False) -> torch.device:
    """Return the device with this name; `auto` is a GPU if torch finds one, else the CPU.

    Raises UsageError if torch cannot use the device, or if `float64` is required (losses and scores
    are summed in it) and the device does not support it.
    """
    if float64 and name.split(":")[0] == "mps":
        raise UsageError(
            "--device must support float64, in which losses and scores are summed, "
            f"found {name!r}: mps does not; use --device cpu (mervn extract can use mps)"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device must be a device that torch can use here, found {name!r}: {reason}") from error
    return device
