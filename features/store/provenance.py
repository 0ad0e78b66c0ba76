"""Where a store's or a run's numbers came from: versions and machine; kept apart from what changes numbers."""

from __future__ import annotations

import datetime as dt
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from features.encoders.base import Encoder
from features.encoders.selector import Selector

PACKAGES = ("mervn", "torch", "torchaudio", "transformers", "numpy", "h5py", "soundfile", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that numbers can come from."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def machine() -> dict[str, Any]:
    """Return what computes here."""
    found: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def now() -> str:
    """Return the time in UTC, ISO 8601, whole seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def provenance(selector: Selector, encoder: Encoder, device: torch.device) -> dict[str, Any]:
    """Return the provenance of a store made now with this encoder."""
    return {
        "selector": str(selector),
        "model": selector.model or selector.spec.model,
        "model_name": encoder.model_name,
        "weights": encoder.weights_note,
        "num_layers": encoder.num_layers,
        "device": str(device),
        "created": now(),
        "versions": package_versions(),
        "machine": machine(),
    }
