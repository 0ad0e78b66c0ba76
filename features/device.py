"""Precision of computing: bf16 by autocast, or fp32 in which nothing is rounded to TF32 or bf16 on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from features.errors import UsageError


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute fp32 products in fp32: TF32 and bf16 are off in matrix products, convolutions and recurrent layers.

    torch's default takes TF32 for convolutions and LSTMs on a GPU, with 10 bits of mantissa, and its kernels differ
    with the shape of the batch. All inference whose numbers are reported runs in here. The settings of before are put
    back. torch 2.9 has a second set of switches, which is kept equal to the first: mixed ones are refused by torch.
    """
    before, switches = _old_switches(), _new_switches()
    precisions = [switch.fp32_precision for switch in switches]
    _set_old_switches("highest", False)
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        _set_old_switches(*before)
        for switch, precision in zip(switches, precisions, strict=True):
            switch.fp32_precision = precision


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in bf16 (autocast) or in exact fp32."""
    with exact_fp32(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def _old_switches() -> tuple[str, bool]:
    """Return the precision of matrix products and whether cuDNN may take TF32; torch's defaults where it refuses.

    It refuses where somebody has set the new switches to something that the old ones cannot tell.
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
    """Return what has an `fp32_precision`: nothing before torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    return [
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    ]


def resolve_device(name: str, *, float64: bool = False) -> torch.device:
    """Return the device of a name; `auto` takes a GPU if torch sees one. UsageError if it cannot be used.

    UsageError for a device without float64 where that is needed: losses and scores are summed in it.
    """
    if float64 and name.split(":")[0] == "mps":
        raise UsageError(
            f"--device must be a device with float64, in which losses and scores are summed, found {name!r}: mps has "
            "none; use --device cpu (mervn extract can use mps)"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"--device must be a device that torch can use here, found {name!r}: {first}") from error
    return device
