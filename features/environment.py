"""Software versions and machine, recorded with stores and runs."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NotRequired, TypedDict

import torch

PACKAGES = ("mervn", "torch", "torchaudio", "transformers", "numpy", "h5py", "soundfile", "scikit-learn")
INPUT_PACKAGES = {"audio": ("soundfile",), "text": ("tokenizers", "underthesea", "pyvi")}
"""Further packages that the features of each modality depend on."""


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | _versions(PACKAGES)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {package: package_version(package) for package in packages}


@cache  # a millisecond each, for every run of a study
def package_version(package: str) -> str:
    """Return the version of an installed package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Machine(TypedDict):
    """Description of a machine."""

    platform: str
    threads: int
    """Number of CPU threads of PyTorch."""
    gpu: NotRequired[str]


def machine() -> Machine:
    """Return a description of this machine."""
    found: Machine = {
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def computing_versions(modality: str) -> dict[str, str]:
    """Return the versions of the packages that compute the features of a modality."""
    return _versions(("torch", "torchaudio", "transformers", "numpy", *INPUT_PACKAGES[modality]))


def made_with(modality: str, device: torch.device) -> dict[str, str]:
    """Return the versions and the device that a part of a store was computed with.

    They can change numbers slightly, and may differ between the parts of one store.
    """
    known = computing_versions(modality)
    on_gpu = device.type == "cuda"
    known["device"] = torch.cuda.get_device_name(device) if on_gpu else device.type
    if modality == "audio":
        import soundfile  # only here: it loads a library that text does not need

        known["libsndfile"] = soundfile.__libsndfile_version__
    known["threads"] = str(torch.get_num_threads())
    return known


def now() -> str:
    """Return the current time in UTC, in ISO 8601 with whole seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
