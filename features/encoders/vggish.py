"""VGGish (Hershey et al. 2017, arXiv 1609.09430): log-mel patches of 0.96 s through a VGG network, 128 numbers each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from features.encoders.base import Encoder, Lengths, resolve_layers, samples_tensor
from features.encoders.mel import FFT, mel_filters
from features.encoders.pretrained import save_weights
from features.encoders.selector import EncoderSettings, Layer, Selector, short_model_name
from features.errors import InputError, UsageError
from features.ragged import Ragged

WINDOW, HOP = 400, 160
MELS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
PATCH = 96
"""Frames a patch; patches do not overlap."""
FIRST, NEXT = 15_600, 15_360
"""Samples of the first patch (96 frames with the last window's end), and of each further one."""
CHANNELS = (64, "P", 128, "P", 256, 256, "P", 512, 512, "P")
"""The convolutions of configuration A without its last block; P halves both axes."""


def make_features() -> nn.Sequential:
    """Return the convolutions, numbered as in the public checkpoint."""
    layers: list[nn.Module] = []
    width = 1
    for channels in CHANNELS:
        if channels == "P":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, int(channels), 3, padding=1), nn.ReLU()]
            width = int(channels)
    return nn.Sequential(*layers)


class Vggish(Encoder):
    """One row a patch; an utterance is zero-padded to 15 600 + 15 360 k samples, so that nothing of it is dropped.

    `final_relu` is False, as Google defined it; the public PyTorch port ends with a ReLU. The embeddings are those
    before PCA and quantisation. The last patch may be part padding: the reference drops it (`partial="drop"`).
    """

    name: ClassVar[str] = "vggish"
    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2

    window: Tensor
    filters: Tensor

    def __init__(self, layers: tuple[Layer, ...] = ("last",), final_relu: bool = False, partial: str = "pad") -> None:
        super().__init__()
        if partial not in ("pad", "drop"):
            raise ValueError(f"partial must be 'pad' or 'drop', found {partial!r}")
        self.dim, self.layers, self.num_layers = 128, layers, 1
        self.config = {"final_relu": final_relu, "partial": partial}
        self.final_relu, self.partial = final_relu, partial
        self.register_buffer("window", torch.hann_window(WINDOW, dtype=torch.float64), persistent=False)
        self.register_buffer("filters", mel_filters(MELS, LOW_HZ, HIGH_HZ), persistent=False)
        self.features = make_features()
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Vggish:
        """Load the public weights (.pth) or safetensors of the same keys: a file, or the only one of a folder."""
        if selector.layers not in (None, ("last",)):
            raise UsageError(f"{selector.flag}: vggish has one layer, 'last'")
        path = _weights_file(selector)
        try:
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            state = {key: tensor.float() for key, tensor in state.items() if not key.startswith("pproc.")}
        except (OSError, SafetensorError, RuntimeError, AttributeError, ValueError, EOFError, UnpicklingError) as error:
            raise InputError(f"{selector.flag}: {path} must hold the weights of VGGish, found: {error}") from error
        with torch.random.fork_rng(devices=[]):
            encoder = cls(resolve_layers(selector, 1))
        try:
            encoder.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"{selector.flag}: {path} must hold every weight of VGGish and no other: {error}"
            ) from error
        encoder.model_name, encoder.weights_note = short_model_name(str(selector.model)), f"pretrained, {path}"
        return encoder

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, self.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the convolutions, then the fully connected layers."""
        return [self.features, self.embeddings]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz, zero-padded to whole patches."""
        samples = samples_tensor(raw)
        if self.partial == "drop":
            return samples
        length = FIRST + NEXT * max(0, -(-(samples.shape[0] - FIRST) // NEXT))
        return functional.pad(samples, (0, length - samples.shape[0]))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return 1 + ceil(max(0, n - 15600) / 15360); in `drop` ((n - 400) // 160 + 1) // 96."""
        if self.partial == "drop":
            frames = (max(lengths, WINDOW - HOP) if isinstance(lengths, int) else lengths.clip(WINDOW - HOP)) - WINDOW
            return (frames // HOP + 1) // PATCH
        beyond = max(lengths, FIRST) - FIRST if isinstance(lengths, int) else lengths.clip(FIRST) - FIRST
        return 1 + -(-beyond // NEXT)

    def log_mel(self, samples: Tensor) -> Tensor:
        """Return log(mel + 0.01) of magnitude spectra, (F, 64), of samples (S,)."""
        if samples.shape[0] < WINDOW:
            return samples.new_zeros((0, MELS))
        exact = samples if samples.device.type == "mps" else samples.double()  # next to the 72 M parameters it is free
        spectrum = torch.fft.rfft(exact.unfold(0, WINDOW, HOP) * self.window.to(exact.dtype), FFT).abs()
        return torch.log(spectrum @ self.filters.to(exact.dtype) + 0.01).float()

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz, whole patches each, into [(sum T, 128)]."""
        frames = [self.log_mel(samples) for samples in inputs.split()]
        sizes = [mel.shape[0] // PATCH for mel in frames]
        patches = torch.cat([mel[: size * PATCH] for mel, size in zip(frames, sizes, strict=True)])
        hidden = self.features(patches.reshape(-1, 1, PATCH, MELS))  # (T, 512, 6, 4)
        rows = self.embeddings(hidden.permute(0, 2, 3, 1).flatten(1))  # the channels last, as Google flattened them
        return [Ragged.from_lengths(functional.relu(rows) if self.final_relu else rows, sizes)]


def _weights_file(selector: Selector) -> Path:
    """Return the file of weights that a selector means."""
    need = "give --audio-encoder vggish=FILE (vggish-10086976.pth of the public release, or safetensors of its keys)"
    if selector.model is None:
        raise InputError(f"{selector.flag}: has no weights of its own; {need}")
    path = Path(selector.model).expanduser()
    if path.is_file():
        return path
    found = sorted(file for suffix in ("*.safetensors", "*.pth", "*.pt") for file in path.glob(suffix))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{selector.flag}: {path} must be a file or hold one of weights, found {names}; {need}")
    return found[0]
