"""Encoders over waveforms in the layout of wav2vec 2.0: wav2vec2 (XLSR-53), HuBERT, WavLM, data2vec-audio; 50 Hz.

Baevski et al. 2020 (arXiv 2006.11477), Hsu et al. 2021 (2106.07447), Chen et al. 2022 (2110.13900), Baevski et al.
2022 (2202.03555).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.audio.torchaudio_import import import_torchaudio
from features.encoders.base import (
    Encoder,
    Lengths,
    blocks_needed,
    captured,
    resolve_layers,
    samples_tensor,
)
from features.encoders.config_fields import config_identity
from features.encoders.pretrained import (
    checkpoint_location,
    describe_model,
    explained,
    load_complete,
    read_config,
    save_weights,
)
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.errors import InputError
from features.ragged import Ragged, padding_mask

SHORTEST = 400
"""Samples that the convolutions need for one row; shorter audio is zero-padded to it, alone and in a batch alike."""
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class MaskedGroupNorm(nn.Module):
    """Group norm with one channel a group whose statistics run over the real frames alone.

    `nn.GroupNorm` averages over the padded time axis, so that an utterance's features depend on its batch.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.lengths: Tensor | None = None
        """(B,) real frames of the next input, set by the encoder before each forward."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        if self.lengths is None:
            raise RuntimeError("lengths must be set before a masked group norm is used")
        mask = padding_mask(self.lengths, x.shape[2])[:, None]  # (B, 1, T)
        exact = torch.promote_types(x.dtype, torch.float32)  # fp16 ends at 65519: a count of frames and a sum pass it
        count = self.lengths[:, None, None].to(exact)
        mean = x.masked_fill(~mask, 0.0).sum(2, keepdim=True, dtype=exact) / count
        centred = (x - mean).masked_fill(~mask, 0.0)
        deviation = (centred.square().sum(2, keepdim=True) / count + self.eps).sqrt()
        normed = centred / deviation * self.weight[:, None] + self.bias[:, None]
        return normed.to(torch.promote_types(x.dtype, self.weight.dtype))


class MaskedBatchNorm(nn.Module):
    """Batch norm before the positional convolution: always by its running statistics, and padding stays zero.

    Without the second mask the norm's bias turns zero padding into values that the convolution reads.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.lengths: Tensor | None = None
        """(B,) real frames of the next input, set by the encoder before each forward."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        if self.lengths is None:
            raise RuntimeError("lengths must be set before a masked batch norm is used")
        normed = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return normed.masked_fill(~padding_mask(self.lengths, x.shape[2])[:, None], 0.0)


class ChannelsLastConvolution(nn.Module):
    """A convolution of the front end that keeps the channels of a frame beside each other in memory.

    `nn.Conv1d` on a CPU makes its input and output contiguous over time, and each layer norm between two of them turns
    the activations over, twice: a fifth of the time of a base-sized front end. Equal but for rounding (6e-6).
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = convolution.weight, convolution.bias, int(convolution.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T_in) -> (B, C_out, T), strided so that `transpose(1, 2)` is contiguous."""
        if x.device.type != "cpu":
            return functional.conv1d(x, self.weight, self.bias, self.stride)
        if x.shape[1] == 1:
            windows = x[:, 0].unfold(1, self.weight.shape[2], self.stride)  # (B, T, K)
            return functional.linear(windows, self.weight[:, 0], self.bias).transpose(1, 2)
        x = x[:, :, None]  # (B, C_in, 1, T_in)
        return functional.conv2d(x, self.weight[:, :, None], self.bias, (1, self.stride))[:, :, 0]


class WaveformTransformer(Encoder):
    """A convolutional front end (25 ms every 20 ms) and a Transformer, each utterance masked to its own frames.

    Layer k is `hidden_states[k]` of transformers, "last" is `last_hidden_state`. With `do_stable_layer_norm` (XLSR-53)
    the top one of the numbered layers lies before the final LayerNorm and "last" after it; otherwise they are equal.
    """

    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2
    lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    model_type: ClassVar[str]
    model_class: ClassVar[str]
    """Name of the class in transformers."""
    batched: ClassVar[bool] = True
    """False where a layer reads across the edge of an utterance whatever the mask: one utterance at a time."""

    model: Any

    def __init__(self, model: Any, extractor: Any, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        do_normalize = bool(extractor.do_normalize)
        self.num_layers = len(model.encoder.layers)
        self.layers = layers
        self.dim = int(model.config.hidden_size)
        self.do_normalize = do_normalize
        self.config = {"model": config_identity(model.config), "do_normalize": do_normalize}
        self.extractor = extractor
        model.config.apply_spec_augment = False
        model.config.layerdrop = 0.0  # a block left out gives no features
        if hasattr(model, "masked_spec_embed"):  # used in pretraining alone, and random where a checkpoint lacks it
            del model.masked_spec_embed
        for layer in model.feature_extractor.conv_layers:
            layer.conv = ChannelsLastConvolution(layer.conv)
        first = model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm(first.layer_norm)
        positions = model.encoder.pos_conv_embed
        if isinstance(getattr(positions, "batch_norm", None), nn.BatchNorm1d):
            positions.batch_norm = MaskedBatchNorm(positions.batch_norm)
        self.model = model

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> WaveformTransformer:
        """Load a checkpoint (hub id or folder) in float32."""
        import_torchaudio()  # transformers imports it too, and would fail where the plain import does
        import transformers

        location = checkpoint_location(selector)
        read_config(selector, location, cls.model_type)
        with explained(selector, location):
            extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(location)
        model: Any = load_complete(
            selector, location, getattr(transformers, cls.model_class), "", ("masked_spec_embed",)
        )
        if model.config.model_type != cls.model_type:
            raise InputError(
                f"{selector.flag}: must be a checkpoint of {cls.model_type}, found {model.config.model_type}"
            )
        geometry = tuple(model.config.conv_kernel), tuple(model.config.conv_stride)
        if (
            geometry != (KERNELS, STRIDES)
            or getattr(model.config, "add_adapter", False)
            or extractor.sampling_rate != 16_000
        ):
            raise InputError(
                f"{selector.flag}: must be a checkpoint for 16 kHz with convolution kernels {KERNELS}, strides "
                f"{STRIDES} and no adapter, found {extractor.sampling_rate} Hz, {geometry[0]}, {geometry[1]}"
            )
        encoder = cls(model, extractor, resolve_layers(selector, len(model.encoder.layers)))
        encoder.model_name, encoder.weights_note = describe_model(selector)
        return encoder

    def drop_unused(self) -> None:
        """Cut the blocks above the layers wanted."""
        self.model.encoder.layers = self.model.encoder.layers[: blocks_needed(self.layers, self.num_layers)]

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes."""
        self.model.config.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        save_weights(folder, self.model.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer's blocks."""
        return list(self.model.encoder.layers)

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the convolutions over the waveform."""
        return [self.model.feature_extractor]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz, zero-padded to the 400 of one row.

        They are normalised over the utterance before that if the checkpoint was trained so.
        """
        samples = samples_tensor(raw)
        if self.do_normalize:
            samples = (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
        return functional.pad(samples, (0, max(0, SHORTEST - samples.shape[0])))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return (max(n, 400) - 400) // 320 + 1."""
        if isinstance(lengths, int):
            return (max(lengths, SHORTEST) - SHORTEST) // 320 + 1
        return (lengths.clip(SHORTEST) - SHORTEST) // 320 + 1

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz, each sequence >= 400 long, into (sum T, D) of each layer."""
        if self.batched or inputs.batch_size == 1:
            return self._forward_batch(inputs)
        parts = [self._forward_batch(Ragged.from_sequences([samples])) for samples in inputs.split()]
        return [Ragged.from_sequences([part[i].values for part in parts]) for i in range(len(self.layers))]

    def _forward_batch(self, inputs: Ragged) -> list[Ragged]:
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, MaskedGroupNorm):
            norm.lengths = (inputs.lengths - KERNELS[0]) // STRIDES[0] + 1
        rows = Ragged.without_values([self.get_feat_lengths(size) for size in inputs.sizes], inputs.values.device)
        batch_norm = getattr(self.model.encoder.pos_conv_embed, "batch_norm", None)
        if isinstance(batch_norm, MaskedBatchNorm):
            batch_norm.lengths = rows.lengths
        with captured(self.model.encoder.layers, self.layers) as states, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")  # inside transformers' WavLM
            output = self.model(inputs.pad(), attention_mask=inputs.mask.long())
            states["last"] = output.last_hidden_state
        return [rows.pack(states[layer]) for layer in self.layers]


class Wav2Vec2(WaveformTransformer):
    """wav2vec 2.0, XLSR-53 by default."""

    name: ClassVar[str] = "wav2vec2"
    model_type: ClassVar[str] = "wav2vec2"
    model_class: ClassVar[str] = "Wav2Vec2Model"


class Hubert(WaveformTransformer):
    """HuBERT."""

    name: ClassVar[str] = "hubert"
    model_type: ClassVar[str] = "hubert"
    model_class: ClassVar[str] = "HubertModel"


class WavLM(WaveformTransformer):
    """WavLM."""

    name: ClassVar[str] = "wavlm"
    model_type: ClassVar[str] = "wavlm"
    model_class: ClassVar[str] = "WavLMModel"
    lora_targets: ClassVar[tuple[str, ...]] = ("intermediate_dense", "output_dense")
    """Its attention reads the weights of its maps and never calls them."""


class Data2VecAudio(WaveformTransformer):
    """data2vec-audio, whose positional convolutions read across the edge of an utterance: one at a time."""

    name: ClassVar[str] = "data2vec"
    model_type: ClassVar[str] = "data2vec-audio"
    model_class: ClassVar[str] = "Data2VecAudioModel"
    batched: ClassVar[bool] = False
