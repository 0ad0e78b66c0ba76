"""Import of torchaudio, even if its compiled extension does not fit the installed torch.

PyPI's torchaudio has an extension linked against CUDA. Beside a CPU-only torch it cannot be loaded,
and the import fails. This project uses only parts in pure torch (resampling). If the plain import
fails, a stub of the private module `torchaudio._extension` is put into `sys.modules`, and the
import is tried again; nothing on disk changes.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

NATIVE, WITHOUT_EXTENSION = "native", "without its compiled extension"


def import_torchaudio() -> tuple[ModuleType, str]:
    """Return the module torchaudio and how it was imported; ImportError if it is not installed."""
    loaded = sys.modules.get("torchaudio")
    if loaded is None:
        try:
            loaded = importlib.import_module("torchaudio")
        except (OSError, RuntimeError):
            for name in list(sys.modules):  # remove what the failed import left
                if name.split(".")[0] == "torchaudio":
                    del sys.modules[name]
            sys.modules["torchaudio._extension"] = _extension_stub()
            loaded = importlib.import_module("torchaudio")
    extension: Any = sys.modules.get("torchaudio._extension")
    return loaded, WITHOUT_EXTENSION if getattr(extension, "MERVN_STUB", False) else NATIVE


def _extension_stub() -> ModuleType:
    """Return a module that tells torchaudio that no compiled extension is available."""
    module: Any = ModuleType("torchaudio._extension")
    module.MERVN_STUB = True
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = lambda function: function
    found: ModuleType = module
    return found
