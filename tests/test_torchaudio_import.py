import importlib
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from features.audio.torchaudio_import import NATIVE, WITHOUT_EXTENSION, import_torchaudio


def test_torchaudio_imports_and_resamples() -> None:
    import torch

    torchaudio, way = import_torchaudio()
    assert way in (NATIVE, WITHOUT_EXTENSION)
    assert import_torchaudio() == (torchaudio, way)
    assert len(torchaudio.functional.resample(torch.zeros(441), 44_100, 16_000)) == 160


def test_an_extension_that_does_not_load_is_stood_in_for() -> None:
    code = """
import importlib, os, sys
import torch
from features.audio.torchaudio_import import import_torchaudio
class Broken:
    def __init__(self, error):
        self.error = error
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension":
            raise self.error
for error in OSError("libc10_cuda.so"), RuntimeError("built for CUDA 13"):
    if os.fork() == 0:  # torchaudio can be imported once in a process
        sys.meta_path.insert(0, Broken(error))
        module, way = import_torchaudio()
        print(way, len(module.functional.resample(torch.zeros(441), 44_100, 16_000)), flush=True)
        os._exit(0)
    os.wait()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [f"{WITHOUT_EXTENSION} 160"] * 2


def test_an_absent_torchaudio_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError):
        import_torchaudio()
    assert not isinstance(sys.modules.get("torchaudio"), ModuleType)
