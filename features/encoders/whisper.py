"""The encoder of Whisper and PhoWhisper (Radford et al. 2022), without the frames of padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.audio.resampling import SAMPLE_RATE
from features.audio.torchaudio_import import import_torchaudio
from features.encoders.base import (
    Encoder,
    Lengths,
    blocks_needed,
    capture_hidden_states,
    resolve_layers,
    samples_tensor,
)
from features.encoders.config_fields import config_identity
from features.encoders.pretrained import (
    check_config,
    checkpoint_location,
    describe_model,
    load_model,
    loading_errors,
    save_weights,
)
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.errors import InputError
from features.ragged import Ragged, padding_mask

EXTRACTOR_FIELDS = ("feature_size", "hop_length", "n_fft", "n_samples", "padding_value")
"""Fields of the feature extractor that change the numbers."""
SAMPLES_PER_FRAME = 320
"""20 ms at 16 kHz: a hop of 160 samples and a convolution of stride 2."""


class Whisper(Encoder):
    """Whisper's encoder.

    Each window is padded to 30 s, as in training; only its ceil(n / 320) real frames are kept.
    Longer audio is split into windows of 30 s, whose frames are joined: 480 000 is a multiple of
    320, so the lengths add up. Layer k is `hidden_states[k]` of transformers; the top one, like
    "last", is after the final LayerNorm. Mode `trimmed` encodes only the real frames: faster, but
    not how the model was trained.
    """

    name: ClassVar[str] = "whisper"
    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2
    lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")

    encoder: Any
    """`WhisperEncoder` of transformers."""
    mel_filters: Tensor

    def __init__(self, encoder: Any, extractor: Any, layers: tuple[Layer, ...], mode: str = "30s") -> None:
        super().__init__()
        self.num_layers = len(encoder.layers)
        self.layers, self.mode = layers, mode
        self.dim = int(encoder.config.d_model)
        self.window = int(extractor.n_samples)
        self.config = {
            "mode": mode,
            "model": config_identity(encoder.config),
            "extractor": {key: getattr(extractor, key) for key in EXTRACTOR_FIELDS},
        }
        encoder.layerdrop = 0.0  # never skip a block
        extractor.dither = 0.0  # no random noise
        self.encoder = encoder
        self.extractor = extractor
        # no part of the state dict, which is hashed
        filters = torch.from_numpy(extractor.mel_filters).float()  # (n_fft / 2 + 1, mels)
        self.register_buffer("mel_filters", filters, persistent=False)

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> Whisper:
        """Load the encoder half of a Whisper checkpoint (hub id or folder) in float32."""
        import_torchaudio()  # before transformers, which imports torchaudio and could fail
        from transformers import WhisperFeatureExtractor, WhisperModel

        location = checkpoint_location(selector)
        check_config(selector, location, "whisper")
        with loading_errors(selector, location):
            extractor = WhisperFeatureExtractor.from_pretrained(location)
        model = load_model(selector, location, WhisperModel, "encoder.")
        encoder: Any = model.encoder
        frames, mels = encoder.config.max_source_positions, encoder.config.num_mel_bins
        sizes = extractor.n_samples, extractor.feature_size, extractor.sampling_rate
        if sizes != (frames * SAMPLES_PER_FRAME, mels, SAMPLE_RATE):
            raise InputError(
                f"{selector.flag}: preprocessor_config.json must fit config.json: a window of "
                f"{frames} frames x {SAMPLES_PER_FRAME} samples and {mels} mels at 16000 Hz, "
                f"found {sizes[0]} samples and {sizes[1]} mels at {sizes[2]} Hz"
            )
        layers = resolve_layers(selector, len(encoder.layers))
        whisper = cls(encoder, extractor, layers, settings.whisper_mode or "30s")
        whisper.model_name, whisper.weights_note = describe_model(selector)
        return whisper

    def drop_unused_blocks(self) -> None:
        """Drop the blocks above the requested layers, and the final LayerNorm if not needed."""
        self.encoder.layers = self.encoder.layers[: blocks_needed(self.layers, self.num_layers)]
        if not {"last", self.num_layers} & set(self.layers):
            self.encoder.layer_norm = nn.Identity()

    def save(self, folder: Path) -> None:
        """Write a folder that `load` can read: the encoder half of a Whisper checkpoint."""
        self.encoder.config.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        save_weights(folder, self.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer blocks."""
        return list(self.encoder.layers)

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the two convolutions over the spectrogram."""
        return [self.encoder.conv1, self.encoder.conv2]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz."""
        return samples_tensor(raw)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return ceil(n / 320): 50 frames per second."""
        return -(-lengths // SAMPLES_PER_FRAME)

    def get_padded_length(self, length: int) -> int:
        """Round up to whole windows, unless the mode is `trimmed`."""
        return length if self.mode == "trimmed" else -(-length // self.window) * self.window

    def log_mel(self, windows: list[Tensor]) -> Tensor:
        """Return log-mel spectrograms (windows, mels, 3000) of windows of up to 30 s, on their device.

        On a CPU they are bit for bit those of transformers' feature extractor, which computes in the
        same way but copies between host and device several times.
        """
        padding = self.extractor.padding_value
        samples = torch.stack([functional.pad(x, (0, self.window - x.shape[0]), value=padding) for x in windows])
        size, hop = self.extractor.n_fft, self.extractor.hop_length
        with torch.autocast(samples.device.type, enabled=False):  # bf16 would lose quiet sounds
            hann = torch.hann_window(size, device=samples.device)
            spectrum = torch.stft(samples, size, hop, window=hann, return_complex=True)
            power = (spectrum[..., :-1].abs() ** 2).contiguous()  # (windows, n_fft / 2 + 1, 3000)
            log_mel = torch.clamp(self.mel_filters.T @ power, min=1e-10).log10()
        # at most 80 dB below the peak of the window
        return (torch.maximum(log_mel, log_mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz into (sum T, D) of each layer."""
        windows: list[Tensor] = []
        for samples in inputs.split():
            windows += samples.split(self.window)
        # several windows at once are no faster on a CPU, whose kernels round differently for each
        # batch size.
        batch = len(windows) if self.mode == "trimmed" or inputs.values.device.type != "cpu" else 1
        chunks = [self._forward_windows(windows[i : i + batch]) for i in range(0, len(windows), batch)]
        sizes = list(map(self.get_feat_lengths, inputs.sizes))
        return [Ragged.from_lengths(torch.cat(parts), sizes) for parts in zip(*chunks, strict=True)]

    def _forward_windows(self, windows: list[Tensor]) -> list[Tensor]:
        """Encode windows of up to 30 s into their real frames (sum T, D), for each layer."""
        sizes = [self.get_feat_lengths(window.shape[0]) for window in windows]
        frames = Ragged.without_values(sizes, windows[0].device)
        return [layer.values for layer in self.encode_mel(self.log_mel(windows), frames)]

    def encode_mel(self, mel: Tensor, frames: Ragged) -> list[Ragged]:
        """Encode log-mel spectrograms (windows, mels, 3000) into (sum T, D) of each layer.

        `frames` has the number of real frames of each window.
        """
        with capture_hidden_states(self.encoder.layers, self.layers) as states:
            if self.mode == "trimmed":
                states["last"] = self._forward_trimmed(mel, frames)
            else:
                states["last"] = self.encoder(mel).last_hidden_state
            states[self.num_layers] = states["last"]
        # drop the padding: of the 1500 frames of a window of 30 s, only the first ones are real
        return [frames.pack(states[layer][:, : frames.max_length]) for layer in self.layers]

    def _forward_trimmed(self, mel: Tensor, frames: Ragged) -> Tensor:
        """Run the encoder over the real frames only: (windows, max T, D).

        The mel spectrogram is that of the padded window. It and the output of the first convolution
        are zeroed beyond the 2 T mel frames of a window, and keys beyond its T frames are masked:
        features do not depend on the batch.
        """
        encoder, length = self.encoder, frames.max_length
        is_real = padding_mask(2 * frames.lengths, 2 * length)[:, None]  # (windows, 1, 2 T)
        x = functional.gelu(encoder.conv1(mel[..., : 2 * length].masked_fill(~is_real, 0.0)))
        x = functional.gelu(encoder.conv2(x.masked_fill(~is_real, 0.0)))
        x = x.transpose(1, 2) + encoder.embed_positions.weight[:length]  # (windows, T, D)
        mask = frames.mask[:, None, None].expand(-1, 1, length, -1)
        for block in encoder.layers:
            x = block(x, mask)
        normed: Tensor = encoder.layer_norm(x)
        return normed
