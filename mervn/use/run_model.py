"""RunModel: a trained head with its encoders, ready to predict from audio and text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from features.audio.resampling import SAMPLE_RATE
from features.device import resolve_device
from features.encoders.base import Encoder
from features.errors import UsageError
from features.lazy_import import import_target
from mervn.data.streams import StreamShape, modality_of
from mervn.evaluation.series import is_series
from mervn.model.head import Head
from mervn.model.saved_run import load_head
from mervn.run_folder import MODEL_FILE, RunConfig, read_config
from mervn.use.run_encoders import StreamEncoder, open_encoders

BUNDLE_FILE = "bundle.json"
"""File that a folder of `mervn export` has, and a run has not."""
BUNDLE_READER = "mervn.use.bundle:read_bundle"
"""Function from the folder of a bundle, a device and `trust_code` to its `RunModel`."""


@dataclass(frozen=True)
class RunModel:
    """A trained head and the encoder of each of its streams, all on one device and in eval mode."""

    path: Path
    """The folder of the run or bundle."""
    config: RunConfig
    head: Head
    encoders: Mapping[str, StreamEncoder]
    """By stream: `text`, `audio` or `audio_2`."""
    weights_sha256: str
    """Hash of the weights of the head and of all encoders, and of the settings that change numbers."""
    device: torch.device

    @property
    def labels(self) -> tuple[str, ...]:
        """The C labels, in the order of the logits."""
        return tuple(self.config.labels)

    @property
    def sample_rate(self) -> int:
        """Hz that all audio encoders read."""
        return SAMPLE_RATE

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the head reads: text, audio or both."""
        return tuple(name for name in ("text", "audio") if name in map(modality_of, self.encoders))

    @property
    def text_encoder(self) -> Encoder | None:
        """The encoder of transcripts; None if the head reads no text."""
        stream = self.encoders.get("text")
        return None if stream is None else stream.encoder

    @property
    def stride_s(self) -> float | None:
        """Seconds from one frame of the first audio stream to the next; None without audio."""
        shape = self.config.streams.get("audio")
        return None if shape is None else StreamShape(**shape).stride / SAMPLE_RATE


def open_run_model(
    path: Path, device: str = "auto", *, features_dir: Path | None = None, trust_code: bool = False
) -> RunModel:
    """Load the model of a complete run of `train-head` or `finetune`, or of a bundle.

    `features_dir` holds the stores of a run of `train-head`, by default the folder that the run
    records. Raises UsageError if the folder is neither, or has custom code and `trust_code` is not
    set. Raises InputError if the run is incomplete, or if its encoders are not the ones that it was
    trained with.
    """
    resolved = resolve_device(device, float64=True)
    if (path / BUNDLE_FILE).is_file():
        bundle: RunModel = import_target(BUNDLE_READER)(path, device, trust_code=trust_code)
        return bundle
    if is_series(path):
        raise UsageError(f"{path} is a series of runs; give one of them, such as {_first_run(path)}")
    config = read_config(path)
    head = load_head(path, config, trust_code)
    encoders = open_encoders(path, config, features_dir, trust_code)
    return assemble(path, config, head, encoders, resolved)


def assemble(
    path: Path, config: RunConfig, head: Head, encoders: Mapping[str, StreamEncoder], device: torch.device
) -> RunModel:
    """Move a head and its encoders to a device and join them."""
    for stream in encoders.values():
        stream.encoder.to(device).eval()
    sha256 = model_sha256(path / MODEL_FILE, config, encoders)
    return RunModel(path, config, head.to(device).eval().requires_grad_(False), encoders, sha256, device)


def model_sha256(weights: Path, config: RunConfig, encoders: Mapping[str, StreamEncoder]) -> str:
    """Hash everything that decides the probabilities of a run: weights and configuration."""
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(config.hash.encode())
    for name in sorted(encoders):
        stream = encoders[name]
        digest.update(f"{name}|{stream.encoder.weights_sha256}|{stream.precision}|{stream.store_dtype}".encode())
    return digest.hexdigest()


def _first_run(series: Path) -> Path:
    """Return the first run of a series, for a message."""
    return min((file.parent for file in series.rglob("config.json")), default=series)
