"""Encoders and head over padded inputs, in the form that an ONNX graph needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.base import Encoder
from features.encoders.whisper import SAMPLES_PER_FRAME, Whisper
from features.padded import Padded
from features.ragged import Ragged
from mervn.data.streams import SECOND
from mervn.model.head import Head
from mervn.use.run_encoders import StreamEncoder

STREAMS = ("text", "audio", SECOND)
HALF = "fp16"


class PaddedModel(nn.Module):
    """Head behind its encoders: logits (B, C) from padded encoder inputs and their lengths.

    An input is what `Encoder.prepare` returns: samples (B, S), token ids (B, T) or n-grams (B, T,
    slots). For Whisper it is the log-mel spectrogram (B, mels, 3000) of one window of 30 s, which
    its feature extractor computes, with the number of samples as length.
    """

    def __init__(self, head: Head, encoders: Mapping[str, StreamEncoder]) -> None:
        super().__init__()
        self.head = head
        self.encoders = nn.ModuleDict({name: stream.encoder for name, stream in encoders.items()})
        self.rounded = frozenset(name for name, stream in encoders.items() if stream.store_dtype == HALF)
        self.minimum = {name: min_length(stream.encoder) for name, stream in encoders.items()}

    def forward(
        self,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_2: Tensor | None = None,
        audio_2_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, C) float32; the lengths are (B,) int64, and 0 stands for a missing input."""
        given = ((text, text_lengths), (audio, audio_lengths), (audio_2, audio_2_lengths))
        features: dict[str, Ragged] = {}
        for name, (padded, lengths) in zip(STREAMS, given, strict=True):
            if padded is not None and lengths is not None:
                features[name] = self._encode(name, padded, lengths)
        logits: Tensor = self.head.classify(features)
        return logits

    def _encode(self, name: str, padded: Tensor, lengths: Tensor) -> Padded:
        """Return the features of one stream (B * T, D), or (B * T, L, D) to mix layers."""
        encoder = self.encoders[name]
        # encoders need at least one frame; what they compute for an empty input is dropped below
        filled = lengths.clamp(min=self.minimum[name])
        if isinstance(encoder, Whisper):
            empty = padded.new_zeros(padded.shape[0], encoder.window // SAMPLES_PER_FRAME, 0)
            frames = Padded.of(empty, encoder.get_feat_lengths(filled).clamp(max=empty.shape[1]))
            layers = encoder.encode_mel(padded, frames)
        else:
            layers = encoder.forward_layers(Padded.of(padded, filled))  # type: ignore[operator]
        values = [layer.pad().float() for layer in layers]
        features = values[0] if len(values) == 1 else torch.stack(values, dim=2)
        if name in self.rounded:  # as the stored features that the head was trained on
            features = features.half().float()
        return Padded.of(features, layers[0].lengths * (lengths > 0))


def min_length(encoder: Encoder) -> int:
    """Return the number of samples or tokens that an encoder needs: the length of its shortest prepared input."""
    return 1 if encoder.modality == "text" else int(encoder.prepare(np.zeros(1, np.float32)).shape[0])
