"""Measurements of utterances before encoding, from file headers and transcripts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError, inspect_segment
from features.encoders.base import Encoder
from features.extraction.audio_files import AudioFiles, nothing, read_files
from features.extraction.audio_segments import Segments, SourceTexts
from features.extraction.settings import ExtractSettings
from features.extraction.transcripts import TranscriptHashes, measure_transcripts
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.store.rejected import Rejection
from features.text.normalize import TokenCounts

MAX_LENGTH = 1 << 44
"""Length in samples from which on a product with the sample rate may not fit into 64 bits."""


@dataclass(kw_only=True)
class Findings:
    """Findings from headers and transcripts about the inputs of N utterances."""

    lengths: Array
    """(N,) int64: samples at 16 kHz or tokens; 0 if the utterance is rejected."""
    rejected: dict[int, Rejection] = field(default_factory=dict)
    """By index of the utterance."""
    end_clipped: int = 0
    """Number of segments that end slightly after the end of the file."""
    truncated: int = 0
    """Number of transcripts that are longer than the encoder's maximum length."""
    empty: Sequence[int] = ()
    """Utterances with a missing or empty transcript; none for audio."""
    token_counts: TokenCounts | None = None
    """Counts of the transcripts' tokens; None for audio, and without a subword tokenizer."""
    sources: SourceTexts | None = None
    """Sources of the audio; None for text."""
    hashes: TranscriptHashes | None = None
    """Hashes of the transcripts; None for audio."""
    keep: Callable[[], object] = nothing
    """Writes what is new into its file in the features folder, if that did not exist yet."""


@dataclass(kw_only=True)
class Measurements(Findings):
    """Size, cost and number of frames of N utterances, from file headers and transcripts."""

    utterances: Sequence[Utterance]
    sizes: Array
    """(N,) float64: seconds of audio or tokens."""
    costs: Array
    """(N,) float64: seconds or tokens that the encoder computes, with the padding of its own windows."""
    num_frames: Array
    """(N,) int64: frames or tokens of the features."""


def measure(
    utterances: Sequence[Utterance], encoder: Encoder, settings: ExtractSettings, reporter: Reporter = SILENT
) -> Measurements:
    """Measure every utterance; those whose audio cannot be used are rejected."""
    if encoder.modality == "audio":
        save, threads = not settings.plan_only, settings.threads
        found = measure_audio(utterances, settings.features_dir, save=save, threads=threads, reporter=reporter)
    else:
        found = _measure_text(utterances, encoder, settings, reporter)
    unit = SAMPLE_RATE if encoder.modality == "audio" else 1
    # many utterances have the same length, and an encoder may count one length at a time
    lengths, places = np.unique(found.lengths, return_inverse=True)
    padded = np.array([encoder.get_padded_length(length) for length in lengths.tolist()], np.int64)
    num_frames = np.where(lengths > 0, encoder.get_feat_lengths(lengths), 0)
    return Measurements(
        utterances=utterances,
        sizes=found.lengths / unit,
        costs=(padded / unit)[places],
        num_frames=num_frames.astype(np.int64)[places],
        **vars(found),
    )


def _measure_text(
    utterances: Sequence[Utterance], encoder: Encoder, settings: ExtractSettings, reporter: Reporter
) -> Findings:
    """Count the tokens of each transcript."""
    found = measure_transcripts(utterances, encoder, settings, reporter)
    return Findings(
        lengths=found.lengths,
        truncated=found.num_truncated,
        empty=np.flatnonzero(found.is_empty).tolist(),
        token_counts=found.token_counts,
        hashes=found.hashes,
        keep=found.keep,
    )


def measure_audio(
    utterances: Sequence[Utterance], folder: Path, *, save: bool, threads: int | None, reporter: Reporter
) -> Findings:
    """Count the samples at 16 kHz of each segment, from the headers of the files.

    Headers that the file of facts in `folder` has are not read again; with `save`, it gets the others.
    """
    segments = Segments.of(utterances)
    files = read_files(segments.paths, folder, save=save, threads=threads, reporter=reporter)
    found = Findings(lengths=segment_lengths(segments, files), sources=SourceTexts(segments, files), keep=files.keep)
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
