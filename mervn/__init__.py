"""Stage two: fusion heads trained on cached sequences, their evaluation, their use and the demo.

`import mervn` offers ten names for notebooks and scripts; each is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.errors import InputError
    from features.manifests.manifest import read_manifests
    from features.ragged import Ragged
    from features.store.reader import FeatureStore
    from mervn.notebook import compare, evaluate, results, train_head
    from mervn.use.recognizer import EmotionRecognizer, load

__all__ = [
    "EmotionRecognizer",
    "FeatureStore",
    "InputError",
    "Ragged",
    "compare",
    "evaluate",
    "load",
    "read_manifests",
    "results",
    "train_head",
]
_MODULES = {
    "EmotionRecognizer": "mervn.use.recognizer",
    "FeatureStore": "features.store.reader",
    "InputError": "features.errors",
    "Ragged": "features.ragged",
    "compare": "mervn.notebook",
    "evaluate": "mervn.notebook",
    "load": "mervn.use.recognizer",
    "read_manifests": "features.manifests.manifest",
    "results": "mervn.notebook",
    "train_head": "mervn.notebook",
}


def __getattr__(name: str) -> Any:
    """Import one of the ten names on first use, so that `import mervn` takes no time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
