"""Where a store's or a run's numbers came from: model, versions, machine; kept apart from what changes numbers."""

from __future__ import annotations

import datetime as dt
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from features.encoders.base import Encoder
from features.encoders.checkpoint import CONFIG_FILE
from features.encoders.selector import Selector
from features.store.identity import StoreInfo
from features.store.models import KEPT_ENCODER, MODELS, record_model
from features.store.writer import disk_error

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


def provenance(selector: Selector, encoder: Encoder, device: torch.device) -> dict[str, Any]:
    """Return the provenance of a store made now with this encoder."""
    return {
        "selector": str(selector),
        "model": selector.model or selector.spec.model,
        "model_name": encoder.model_name,
        MODELS: [encoder.source.as_json()],
        "weights": encoder.weights_note,
        "num_layers": encoder.num_layers,
        "device": str(device),
        "created": now(),
        "versions": package_versions(),
        "machine": machine(),
    }


def record_encoder(info: StoreInfo, encoder: Encoder) -> StoreInfo:
    """Record the model that a store comes from, what it was fine-tuned on, and random weights themselves."""
    try:
        if encoder.tuned is not None:
            encoder.tuned.save(info.path)
        if encoder.is_random and not (info.path / KEPT_ENCODER / CONFIG_FILE).exists():
            encoder.save(info.path / KEPT_ENCODER)
        return record_model(info, encoder.source)
    except OSError as error:
        raise disk_error(info, error) from error
