"""Measurements of utterances before encoding, from file headers and transcripts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError, inspect_segment
from features.encoders.base import Encoder
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.store.rejected import Rejection


@dataclass
class Measurements:
    """Size, cost and number of frames of utterances, from file headers and transcripts."""

    utterances: Sequence[Utterance]
    sizes: list[float] = field(default_factory=list)
    """Seconds of audio or tokens."""
    costs: list[float] = field(default_factory=list)
    """Seconds or tokens that the encoder computes, with the padding of its own windows."""
    num_frames: list[int] = field(default_factory=list)
    """Frames or tokens of the features."""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """By index of the utterance."""
    end_clipped: int = 0
    """Number of segments that end slightly after the end of the file."""
    truncated: int = 0
    """Number of transcripts that are longer than the encoder's maximum length."""


def measure(utterances: Sequence[Utterance], encoder: Encoder) -> Measurements:
    """Measure every utterance; those whose audio cannot be used are rejected."""
    measured = Measurements(utterances)
    unit = SAMPLE_RATE if encoder.modality == "audio" else 1  # seconds or tokens
    for i, utterance in enumerate(utterances):
        length = 0  # samples or tokens
        try:
            length = _input_length(utterance, encoder, measured)
        except AudioError as error:
            measured.rejected[i] = Rejection(utterance, error.reason, str(error))
        measured.sizes.append(length / unit)
        measured.costs.append(encoder.get_padded_length(length) / unit)
        measured.num_frames.append(int(encoder.get_feat_lengths(length)) if length else 0)
    return measured


def _input_length(utterance: Utterance, encoder: Encoder, measured: Measurements) -> int:
    """Return the number of samples or tokens; count the utterance if it is clipped or truncated."""
    if encoder.modality == "text":
        transcript = transcript_of(utterance)
        if encoder.is_truncated(transcript):
            measured.truncated += 1
        return int(encoder.prepare(transcript).shape[0])
    info = inspect_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
    if info.end_clipped:
        measured.end_clipped += 1
    return info.num_samples
