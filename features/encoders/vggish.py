"""VGGish (Hershey et al. 2017, arXiv 1609.09430): a VGG network over log-mel patches of 0.96 s."""

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

from features.encoders.base import Encoder, Lengths, at_least, resolve_layers, samples_tensor
from features.encoders.mel import FFT, mel_filters
from features.encoders.pretrained import save_weights
from features.encoders.selector import EncoderSettings, Layer, Selector, short_model_name
from features.errors import InputError, UsageError
from features.ragged import Ragged

WINDOW, HOP = 400, 160
"""Samples of a log-mel frame, and between frames: 25 and 10 ms at 16 kHz."""
MELS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
PATCH = 96
"""Mel frames per patch; patches do not overlap."""
FIRST, NEXT = 15_600, 15_360
"""Samples of the first patch (95 hops and the last window), and of each further patch."""
CHANNELS = (64, "P", 128, "P", 256, 256, "P", 512, 512, "P")
"""Output channels of the convolutions (VGG configuration A without its last block); P is a max
pooling by 2."""
HIDDEN = 4096
"""Width of the fully connected layers, which hold 67 of the 72 million weights."""


def make_features() -> nn.Sequential:
    """Build the convolutions, with the indices of the public checkpoint."""
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
    """VGGish, one frame of width 128 per patch.

    Input is zero-padded to 15 600 + 15 360 k samples, so that no audio is dropped. The embeddings
    are those before PCA and quantization. `final_relu` is False, as in Google's definition; the
    public PyTorch port ends with a ReLU. The last patch may contain padding; the reference drops it
    (`partial="drop"`).
    """

    name: ClassVar[str] = "vggish"
    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        layers: tuple[Layer, ...] = ("last",),
        final_relu: bool = False,
        partial: str = "pad",
        draw_weights: bool = True,
    ) -> None:
        super().__init__()
        if partial not in ("pad", "drop"):
            raise ValueError(f"partial must be 'pad' or 'drop', found {partial!r}")
        self.dim, self.layers, self.num_layers = 128, layers, 1
        self.config = {"final_relu": final_relu, "partial": partial}
        self.final_relu, self.partial = final_relu, partial
        self.register_buffer("window", torch.hann_window(WINDOW, dtype=torch.float64), persistent=False)
        self.register_buffer("filters", mel_filters(MELS, LOW_HZ, HIGH_HZ), persistent=False)
        with torch.device("cpu" if draw_weights else "meta"):
            self.features = make_features()
            self.embeddings = nn.Sequential(
                nn.Linear(512 * 4 * 6, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 128)
            )
        if not draw_weights:
            self.features.to_empty(device="cpu")
            self.embeddings.to_empty(device="cpu")

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Vggish:
        """Load the public weights (.pth), or safetensors with the same keys.

        The model is a file, or a folder with exactly one.
        """
        if selector.layers not in (None, ("last",)):
            raise UsageError(f"{selector.flag}: vggish has one layer, 'last'")
        path = _weights_file(selector)
        try:
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            state = {key: tensor.float() for key, tensor in state.items() if not key.startswith("pproc.")}
        except (OSError, SafetensorError, RuntimeError, AttributeError, ValueError, EOFError, UnpicklingError) as error:
            raise InputError(f"{selector.flag}: {path} must hold the weights of VGGish, found: {error}") from error
        # to draw 72 million weights, which the file replaces, would take a second
        encoder = cls(resolve_layers(selector, 1), draw_weights=False)
        try:
            encoder.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"{selector.flag}: {path} must hold every weight of VGGish and no others: {error}"
            ) from error
        encoder.model_name, encoder.weights_note = short_model_name(str(selector.model)), f"pretrained, {path}"
        return encoder

    def save(self, folder: Path) -> None:
        """Write a folder that `load` can read."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, self.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the convolutions and the fully connected layers."""
        return [self.features, self.embeddings]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz, zero-padded to whole patches."""
        samples = samples_tensor(raw)
        if self.partial == "drop":
            return samples
        length = FIRST + NEXT * (self.get_feat_lengths(samples.shape[0]) - 1)
        return functional.pad(samples, (0, length - samples.shape[0]))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return 1 + ceil(max(0, n - 15600) / 15360); in `drop` ((n - 400) // 160 + 1) // 96."""
        if self.partial == "drop":
            # clipped where the formula gives 0 mel frames: audio below WINDOW has none
            return ((at_least(lengths, WINDOW - HOP) - WINDOW) // HOP + 1) // PATCH
        return 1 + -(-(at_least(lengths, FIRST) - FIRST) // NEXT)

    def log_mel(self, samples: Tensor) -> Tensor:
        """Return log(mel + 0.01) of magnitude spectra, (F, 64), of samples (S,)."""
        if samples.shape[0] < WINDOW:
            return samples.new_zeros((0, MELS))
        # float64 costs nothing next to the 72 M parameters; mps does not support it
        exact = samples if samples.device.type == "mps" else samples.double()
        spectrum = torch.fft.rfft(exact.unfold(0, WINDOW, HOP) * self.window.to(exact.dtype), FFT).abs()
        return torch.log(spectrum @ self.filters.to(exact.dtype) + 0.01).float()

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz, whole patches each, into [(sum T, 128)]."""
        parts, sizes = [], []
        for samples in inputs.split():
            mel = self.log_mel(samples)  # (F, 64)
            size = mel.shape[0] // PATCH
            parts.append(mel[: size * PATCH])
            sizes.append(size)
        patches = torch.cat(parts).reshape(-1, 1, PATCH, MELS)  # (sum T, 1, 96, 64)
        hidden = self.features(patches)  # (sum T, 512, 6, 4)
        # channels last, as in the original weights
        features = self.embeddings(hidden.permute(0, 2, 3, 1).flatten(1))
        return [Ragged.from_lengths(functional.relu(features) if self.final_relu else features, sizes)]


def _weights_file(selector: Selector) -> Path:
    """Return the file of weights that a selector names."""
    hint = "use --audio-encoder vggish=FILE (the public vggish-10086976.pth, or safetensors of its keys)"
    if selector.model is None:
        raise InputError(f"{selector.flag}: has no default weights; {hint}")
    path = Path(selector.model).expanduser()
    if path.is_file():
        return path
    found: list[Path] = []
    for pattern in ("*.safetensors", "*.pth", "*.pt"):
        found += path.glob(pattern)
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in found)) or "none"
        raise InputError(
            f"{selector.flag}: {path} must be a file of weights, or a folder with exactly one, found {names}; {hint}"
        )
    return found[0]
