"""Audio encoders of the wav2vec 2.0 family at 50 Hz: wav2vec2, HuBERT, WavLM, data2vec-audio.

Baevski et al. 2020 (arXiv 2006.11477), Hsu et al. 2021 (2106.07447), Chen et al. 2022 (2110.13900),
Baevski et al. 2022 (2202.03555).
"""

from __future__ import annotations

import warnings
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
    at_least,
    blocks_needed,
    capture_hidden_states,
    forward_each,
    resolve_layers,
    samples_tensor,
)
from features.encoders.config_fields import config_identity
from features.encoders.masked_norms import MaskedBatchNorm, MaskedGroupNorm
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
from features.ragged import Ragged

MIN_SAMPLES = 400
"""Samples that the convolutions need for one frame; shorter audio is zero-padded to it, alone and
in a batch."""
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
SAMPLES_PER_FRAME = 320
"""The product of the strides: 20 ms at 16 kHz."""


class ChannelsLastConvolution(nn.Module):
    """A front-end convolution with a channels-last memory layout on a CPU.

    `nn.Conv1d` on a CPU makes its input and output contiguous over time, so that each layer norm
    between two of them transposes the activations twice: a fifth of the runtime of a base-sized
    front end. Equal up to rounding (6e-6).
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
    """A convolutional front end (25 ms every 20 ms) and a Transformer.

    Padding is masked everywhere. Layer k is `hidden_states[k]` of transformers, "last" is
    `last_hidden_state`. With `do_stable_layer_norm` (XLSR-53) the top numbered layer is before the
    final LayerNorm and "last" after it; otherwise they are equal.
    """

    modality: ClassVar[str] = "audio"
    numerics_version: ClassVar[int] = 2
    lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    model_type: ClassVar[str]
    model_class: ClassVar[str]
    """Name of the class in transformers."""
    batched: ClassVar[bool] = True
    """False if some layer reads padding despite the mask: utterances are then encoded one at a
    time."""

    model: Any

    def __init__(self, model: Any, extractor: Any, layers: tuple[Layer, ...]) -> None:
        super().__init__()
        self.num_layers = len(model.encoder.layers)
        self.layers = layers
        self.dim = int(model.config.hidden_size)
        self.do_normalize = bool(extractor.do_normalize)
        self.config = {"model": config_identity(model.config), "do_normalize": self.do_normalize}
        self.extractor = extractor
        model.config.apply_spec_augment = False
        model.config.layerdrop = 0.0  # never skip a block
        # only for pretraining, and missing in some checkpoints
        if hasattr(model, "masked_spec_embed"):
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
        import_torchaudio()  # before transformers, which imports torchaudio and could fail
        import transformers

        location = checkpoint_location(selector)
        check_config(selector, location, cls.model_type)
        with loading_errors(selector, location):
            extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(location)
        model_class = getattr(transformers, cls.model_class)
        model: Any = load_model(selector, location, model_class, "", ("masked_spec_embed",))
        cls._check_front_end(selector, model.config, extractor.sampling_rate)
        encoder = cls(model, extractor, resolve_layers(selector, len(model.encoder.layers)))
        encoder.model_name, encoder.weights_note = describe_model(selector)
        return encoder

    @staticmethod
    def _check_front_end(selector: Selector, config: Any, sample_rate: int) -> None:
        """Raise InputError unless kernels, strides and rate are the usual ones.

        All lengths depend on them.
        """
        kernels, strides = tuple(config.conv_kernel), tuple(config.conv_stride)
        is_usual = (kernels, strides, sample_rate) == (KERNELS, STRIDES, SAMPLE_RATE)
        if not is_usual or getattr(config, "add_adapter", False):
            raise InputError(
                f"{selector.flag}: must be a checkpoint for 16 kHz with convolution kernels "
                f"{KERNELS}, strides {STRIDES} and no adapter, "
                f"found {sample_rate} Hz, {kernels}, {strides}"
            )

    def drop_unused_blocks(self) -> None:
        """Drop the blocks above the requested layers."""
        self.model.encoder.layers = self.model.encoder.layers[: blocks_needed(self.layers, self.num_layers)]

    def save(self, folder: Path) -> None:
        """Write a folder that `load` can read."""
        self.model.config.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        save_weights(folder, self.model.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer blocks."""
        return list(self.model.encoder.layers)

    def get_front_end(self) -> Sequence[nn.Module]:
        """Return the convolutions over the waveform."""
        return [self.model.feature_extractor]

    def prepare(self, raw: Any) -> Tensor:
        """Return samples float32 (S,) at 16 kHz, zero-padded to at least the 400 of one frame.

        Before padding they are normalized to zero mean and unit variance, if the checkpoint was
        trained that way.
        """
        samples = samples_tensor(raw)
        if self.do_normalize:
            samples = (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
        return functional.pad(samples, (0, max(0, MIN_SAMPLES - samples.shape[0])))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return (max(n, 400) - 400) // 320 + 1."""
        return (at_least(lengths, MIN_SAMPLES) - MIN_SAMPLES) // SAMPLES_PER_FRAME + 1

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode samples (sum S,) at 16 kHz, each S >= 400, into (sum T, D) of each layer."""
        if self.batched or inputs.batch_size == 1:
            return self._forward_batch(inputs)
        return forward_each(self._forward_batch, inputs)

    def _forward_batch(self, inputs: Ragged) -> list[Ragged]:
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, MaskedGroupNorm):
            norm.lengths = (inputs.lengths - KERNELS[0]) // STRIDES[0] + 1
            norm.has_padding = len(set(inputs.sizes)) > 1
        batch_norm = getattr(self.model.encoder.pos_conv_embed, "batch_norm", None)
        if isinstance(batch_norm, MaskedBatchNorm):
            batch_norm.lengths = self.get_feat_lengths(inputs.lengths)
        with capture_hidden_states(self.model.encoder.layers, self.layers) as states, warnings.catch_warnings():
            # a warning within transformers' WavLM
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
            output = self.model(inputs.pad(), attention_mask=inputs.mask.long())
            states["last"] = output.last_hidden_state
        frames = inputs.resized(states["last"], self.get_feat_lengths)
        return [frames.pack(states[layer]) for layer in self.layers]


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
    """Not q_proj and v_proj: its attention uses their weights without calling the modules, and so
    without adapters."""


class Data2VecAudio(WaveformTransformer):
    """data2vec-audio, one utterance at a time: its positional convolutions read padding."""

    name: ClassVar[str] = "data2vec"
    model_type: ClassVar[str] = "data2vec-audio"
    model_class: ClassVar[str] = "Data2VecAudioModel"
    batched: ClassVar[bool] = False
