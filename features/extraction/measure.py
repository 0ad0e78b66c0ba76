"""Measurements of utterances before encoding, from file headers and transcripts alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError, inspect_segment
from features.encoders.base import Encoder
from features.extraction.audio_files import AudioFiles, read_files
from features.extraction.audio_segments import Segments, SourceTexts
from features.extraction.encoder_input import transcript_of
from features.extraction.settings import ExtractSettings
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.store.rejected import Rejection

MAX_LENGTH = 1 << 44
"""Length in samples from which on a product with the sample rate may not fit into 64 bits."""
REPORTED = 4096
"""Number of transcripts between two updates of the progress bar."""


@dataclass
class Measurements:
    """Size, cost and number of frames of N utterances, from file headers and transcripts."""

    utterances: Sequence[Utterance]
    sizes: Array
    """(N,) float64: seconds of audio or tokens."""
    costs: Array
    """(N,) float64: seconds or tokens that the encoder computes, with the padding of its own windows."""
    num_frames: Array
    """(N,) int64: frames or tokens of the features."""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """By index of the utterance."""
    end_clipped: int = 0
    """Number of segments that end slightly after the end of the file."""
    truncated: int = 0
    """Number of transcripts that are longer than the encoder's maximum length."""
    sources: SourceTexts | None = None
    """Sources of the audio; None for text."""


@dataclass
class _Lengths:
    """Samples or tokens of N utterances, and what was found out with them."""

    lengths: Array
    rejected: dict[int, Rejection] = field(default_factory=dict)
    end_clipped: int = 0
    truncated: int = 0
    sources: SourceTexts | None = None


def measure(
    utterances: Sequence[Utterance], encoder: Encoder, settings: ExtractSettings, reporter: Reporter = SILENT
) -> Measurements:
    """Measure every utterance; those whose audio cannot be used are rejected."""
    if encoder.modality == "audio":
        unit, found = SAMPLE_RATE, _measure_audio(utterances, settings, reporter)
    else:
        unit, found = 1, _measure_text(utterances, encoder, reporter)
    # many utterances have the same length, and an encoder may count one length at a time
    lengths, places = np.unique(found.lengths, return_inverse=True)
    padded = np.array([encoder.get_padded_length(length) for length in lengths.tolist()], np.int64)
    num_frames = np.where(lengths > 0, encoder.get_feat_lengths(lengths), 0)
    return Measurements(
        utterances=utterances,
        sizes=found.lengths / unit,
        costs=(padded / unit)[places],
        num_frames=num_frames.astype(np.int64)[places],
        rejected=found.rejected,
        end_clipped=found.end_clipped,
        truncated=found.truncated,
        sources=found.sources,
    )


def _measure_text(utterances: Sequence[Utterance], encoder: Encoder, reporter: Reporter) -> _Lengths:
    """Count the tokens of each transcript."""
    found = _Lengths(np.zeros(len(utterances), np.int64))
    with closing(reporter.progress(len(utterances), 0, "transcripts")) as bar:
        for i, utterance in enumerate(utterances):
            transcript = transcript_of(utterance)
            if encoder.is_truncated(transcript):
                found.truncated += 1
            found.lengths[i] = encoder.prepare(transcript).shape[0]
            if i % REPORTED == REPORTED - 1:
                bar.update(REPORTED)
        bar.update(len(utterances) % REPORTED)
    return found


def _measure_audio(utterances: Sequence[Utterance], settings: ExtractSettings, reporter: Reporter) -> _Lengths:
    """Count the samples at 16 kHz of each segment, from the headers of the files."""
    segments = Segments.of(utterances)
    files = read_files(
        segments.paths,
        settings.features_dir,
        save=not settings.plan_only,
        threads=settings.threads,
        reporter=reporter,
    )
    found = _Lengths(segment_lengths(segments, files), sources=SourceTexts(segments, files))
    for i in np.flatnonzero(found.lengths < 0).tolist():
        utterance = utterances[i]
        found.lengths[i] = 0
        try:
            info = inspect_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
        except AudioError as error:
            found.rejected[i] = Rejection(utterance, error.reason, str(error))
            continue
        found.lengths[i] = info.num_samples
        if info.end_clipped:
            found.end_clipped += 1
    return found


def segment_lengths(segments: Segments, files: AudioFiles) -> Array:
    """Return the samples at 16 kHz of each segment, (N,) int64; -1: `inspect_segment` must decide.

    The arithmetic is that of `inspect_segment`, for segments that are in their file.
    """
    rates, frames, channels = (column[segments.files] for column in files.columns())
    is_open, rate = np.isnan(segments.ends), np.maximum(rates, 1).astype(np.int64)
    seconds = frames / rate
    first = np.rint(segments.starts * rate)
    last = np.where(is_open, frames, np.minimum(np.rint(segments.ends * rate), frames))
    is_inside = (is_open | (segments.ends <= seconds)) & (segments.starts <= seconds)
    is_inside &= (rates > 0) & (segments.channels < channels) & (first < last) & (last < MAX_LENGTH)
    lengths = np.where(is_inside, last - first, 0).astype(np.int64)
    # as `resampled_length`
    return np.where(is_inside, -(-lengths * SAMPLE_RATE // rate), -1)
