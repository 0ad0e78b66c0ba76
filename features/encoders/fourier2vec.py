"""Fourier2Vec: log-mel spectrogram, two convolutions and a pre-norm Transformer, at 50 Hz.

Without a checkpoint its weights are random: a baseline (a random projection of the spectrogram and
its context), which stores and reports record as random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.encoders.base import (
    Encoder,
    Lengths,
    at_least,
    blocks_needed,
    resolve_layers,
    samples_tensor,
)
from features.encoders.mel import FFT, mel_filters
from features.encoders.pretrained import RANDOM_NOTE, read_native, save_native
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.ragged import Ragged, segment_mean
from features.torch_seed import seeded

WINDOW, HOP = 400, 160
"""Samples of a log-mel frame, and between frames: 25 and 10 ms at 16 kHz."""


class FourierConfig(TypedDict):
    """Config of the encoder; that of a checkpoint has the same keys."""

    dim: int
    num_layers: int
    heads: int
    num_mels: int
    low_hz: float
    high_hz: float
    position_kernel: int
    position_groups: int


DEFAULTS: FourierConfig = {
    "dim": 256,
    "num_layers": 4,
    "heads": 4,
    "num_mels": 80,
    "low_hz": 20.0,
    "high_hz": 7600.0,
    "position_kernel": 63,
    "position_groups": 16,
}
"""Config of a new encoder."""
RANDOM_SEED = 0


def num_frames(lengths: Lengths) -> Lengths:
    """Return the number of log-mel frames of a number of samples.

    Audio shorter than one frame is padded to one.
    """
    return (at_least(lengths, WINDOW) - WINDOW) // HOP + 1


def half(num_mel: Lengths) -> Lengths:
    """Return the number of frames after the convolution of stride 2, for a number of log-mel frames."""
    return (num_mel + 1) // 2


def convolve(convolution: nn.Conv1d, x: Ragged) -> Tensor:
    """Apply a convolution over time and GELU: (sum T, D) -> padded (B, T', D')."""
    return functional.gelu(convolution(x.pad(0.0).transpose(1, 2))).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm Transformer block; only attention uses a padded view."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Ragged) -> Ragged:
        """Mix the frames of each sequence: (sum T, D) -> (sum T, D)."""
        qkv = x.map(self.attention_norm).map(self.qkv).pad(0.0)  # (B, T, 3 D)
        by_head = qkv.unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=x.mask[:, None, None])
        x = x.replace(x.values + self.out(x.pack(mixed.transpose(1, 2).flatten(2)).values))
        return x.replace(x.values + self.feed_forward(self.feed_forward_norm(x.values)))


class Fourier2Vec(Encoder):
    """Log-mel frames, two convolutions, convolutional positions and a pre-norm Transformer.

    By default 80 mel bands, 4 blocks and D = 256. Both convolutions have a kernel of 3, the second
    one a stride of 2. The mel bands of an utterance are normalized to zero mean and unit variance
    over its frames. Padding is removed after every convolution, so that features do not depend on
    the batch.
    """

    name: ClassVar[str] = "fourier2vec"
    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2
    lora_targets: ClassVar[tuple[str, ...]] = ("qkv", "out")

    window: Tensor
    filters: Tensor

    def __init__(self, config: FourierConfig, layers: tuple[Layer, ...] = ("last",)) -> None:
        super().__init__()
        dim, mels, kernel = config["dim"], config["num_mels"], config["position_kernel"]
        self.config = dict(config)
        self.dim, self.layers, self.num_layers = dim, layers, config["num_layers"]
        self.model_name, self.weights_note = "random", f"{RANDOM_NOTE}, seed {RANDOM_SEED}"
        self.is_random = True
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        filters = mel_filters(mels, config["low_hz"], config["high_hz"])
        self.register_buffer("filters", filters.float(), persistent=False)
        self.conv_in = nn.Conv1d(mels, dim, 3, padding=1)
        self.conv_down = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        groups = config["position_groups"]
        self.positions = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.blocks = nn.ModuleList(Block(dim, config["heads"]) for _ in range(self.num_layers))
        self.norm = nn.LayerNorm(dim)

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Fourier2Vec:
        """Load a checkpoint folder, or initialize weights from a fixed seed if none is named."""
        if selector.model is None:
            with seeded(torch.device("cpu"), RANDOM_SEED):
                return cls(DEFAULTS, resolve_layers(selector, DEFAULTS["num_layers"]))
        checkpoint = read_native(selector, DEFAULTS)
        encoder = cls(cast(FourierConfig, checkpoint.config), resolve_layers(selector, checkpoint.config["num_layers"]))
        checkpoint.load_into(selector, encoder)
        return encoder

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes."""
        save_native(self, folder)

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer blocks that the requested layers need."""
        return list(self.blocks)[: blocks_needed(self.layers, self.num_layers)]

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the two convolutions over the spectrogram."""
        return [self.conv_in, self.conv_down]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz, zero-padded to the 400 of one frame."""
        samples = samples_tensor(raw)
        return functional.pad(samples, (0, max(0, WINDOW - samples.shape[0])))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return (max(n, 400) - 400) // 320 + 1, as for wav2vec2."""
        return half(num_frames(lengths))

    def raw_log_mel(self, samples: Ragged) -> Ragged:
        """Return log-mel frames (sum F, num_mels) of samples (sum S,), every 10 ms.

        On a GPU they are float64, because it rounds spectra and sums differently in each batch. In
        fp32, the normalization of bands that hardly vary would enlarge the differences to 4e-4.
        """
        exact = torch.float64 if samples.values.is_cuda else torch.float32
        frames = samples.windows(WINDOW, HOP)  # (sum F, 400)
        power = torch.fft.rfft(frames.values.to(exact) * self.window.to(exact), FFT).abs().square()
        return frames.replace(torch.log(power @ self.filters.to(exact) + 1e-6))

    def log_mel(self, samples: Ragged) -> Ragged:
        """Return normalized log-mel frames (sum F, num_mels), fp32, of samples (sum S,)."""
        log_mel = self.raw_log_mel(samples)
        centred = log_mel.replace(log_mel.values - segment_mean(log_mel)[log_mel.segments])
        deviation = segment_mean(centred.map(torch.square)).sqrt()
        return centred.replace((centred.values / (deviation[centred.segments] + 1e-5)).float())

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz, each S >= 400, into (sum T, D) of each layer."""
        # bf16 would lose quiet sounds
        with torch.autocast(inputs.values.device.type, enabled=False):
            mel = self.log_mel(inputs)
        return self.encode_frames(mel)

    def encode_frames(self, mel: Ragged) -> list[Ragged]:
        """Encode normalized log-mel frames (sum F, num_mels) into (sum T, D) of each layer.

        The stride of 2 halves the frames of a sequence: T = ceil(F / 2).
        """
        hidden = mel.pack(convolve(self.conv_in, mel))
        halved = convolve(self.conv_down, hidden)  # (B, T, D)
        x = mel.resized(halved, half)
        positions = x.pack(convolve(self.positions, x))
        x = x.replace(x.values + positions.values)
        states: dict[Layer, Ragged] = {0: x}
        for number, block in enumerate(self.get_blocks(), 1):
            states[number] = x = block(x)
        states["last"] = x.map(self.norm)
        return [states[layer] for layer in self.layers]
