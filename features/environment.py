"""Where a store's or a run's numbers came from: model, versions, machine; kept apart from what changes numbers."""

from __future__ import annotations

import datetime as dt
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("mervn", "torch", "torchaudio", "transformers", "numpy", "h5py", "soundfile", "scikit-learn")
INPUT_PACKAGES = {"audio": ("soundfile",), "text": ("tokenizers", "underthesea", "pyvi")}
"""What numbers can come from besides, of each modality."""


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that numbers can come from."""
    return {"python": platform.python_version()} | {package: package_version(package) for package in PACKAGES}


def package_version(package: str) -> str:
    """Return the version of an installed package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Return what computes here."""
    found: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def computing_versions(modality: str) -> dict[str, str]:
    """Return the versions of the packages that the features of a modality are computed with."""
    packages = ("torch", "torchaudio", "transformers", "numpy", *INPUT_PACKAGES[modality])
    return {package: package_version(package) for package in packages}


def made_with(modality: str, device: torch.device) -> dict[str, str]:
    """Return what changes numbers and can differ between the parts of one store: versions and the device."""
    known = computing_versions(modality)
    known["device"] = str(device.type)
    if device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(device)
    if modality == "audio":
        import soundfile  # loads a library that text does not need

        known["libsndfile"] = soundfile.__libsndfile_version__
    known["threads"] = str(torch.get_num_threads())
    return known


def now() -> str:
    """Return the time in UTC, ISO 8601, whole seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
