"""The precision that `--amp auto` takes follows from the processor, and nothing is asked of it otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from features.errors import UsageError
from mervn.training import optimization
from mervn.training.optimization import resolve_amp

CPU = torch.device("cpu")


def no_answer(*_: Any, **__: Any) -> Any:
    raise AttributeError("this wheel cannot tell")


def answers(**known: bool) -> Callable[[], dict[str, bool]]:
    return lambda: known


@pytest.mark.parametrize(
    ("known", "amp"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, "off"),  # AVX-512 alone emulates bf16
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "off"),
    ],
)
def test_auto_is_bf16_where_the_processor_has_instructions_for_it(
    known: dict[str, bool], amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", answers(**known), raising=False)
    assert resolve_amp("auto", CPU) == amp


@pytest.mark.parametrize("missing", [AttributeError, RuntimeError])
def test_without_an_answer_of_torch_linux_is_asked(
    missing: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise missing

    monkeypatch.setattr(torch.cpu, "get_capabilities", refuse, raising=False)
    for flags, amp in (("fpu avx512f avx512_bf16", "bf16"), ("fpu avx512f", "off")):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor : 0\nflags\t\t: {flags}\n\n")
        monkeypatch.setattr(optimization, "CPUINFO", path)
        assert resolve_amp("auto", CPU) == amp
    monkeypatch.setattr(optimization, "CPUINFO", tmp_path / "missing")  # as on macOS
    assert resolve_amp("auto", CPU) == "off"


def test_only_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimization, "computes_bf16", no_answer)
    assert [resolve_amp(amp, CPU) for amp in ("off", "bf16")] == ["off", "bf16"]
    assert resolve_amp("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(UsageError, match="--amp fp16 needs a GPU, found cpu"):
        resolve_amp("fp16", CPU)
    with pytest.raises(AttributeError, match="cannot tell"):
        resolve_amp("auto", CPU)


def test_auto_of_other_devices() -> None:
    assert resolve_amp("auto", torch.device("mps")) == "off"
