"""Importing torchaudio where its compiled extension does not fit the torch installed.

PyPI's torchaudio carries an extension linked against CUDA, which cannot be loaded beside a CPU-only torch, and the
import fails with it. What is used here (resampling) is pure torch. So where the plain import fails, a stand-in for the
private module `torchaudio._extension` is put in place and the import is tried again; nothing on disk is touched.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

NATIVE, WITHOUT_EXTENSION = "native", "without its compiled extension"


def import_torchaudio() -> tuple[ModuleType, str]:
    """Return the module torchaudio and how it was imported; ImportError where it is not installed."""
    loaded = sys.modules.get("torchaudio")
    if loaded is None:
        try:
            loaded = importlib.import_module("torchaudio")
        except (OSError, RuntimeError):
            for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
                del sys.modules[name]
            sys.modules["torchaudio._extension"] = _stand_in()
            loaded = importlib.import_module("torchaudio")
    extension: Any = sys.modules.get("torchaudio._extension")
    return loaded, WITHOUT_EXTENSION if getattr(extension, "MERVN_STAND_IN", False) else NATIVE


def _stand_in() -> ModuleType:
    module: Any = ModuleType("torchaudio._extension")
    module.MERVN_STAND_IN = True
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = lambda function: function
    found: ModuleType = module
    return found
