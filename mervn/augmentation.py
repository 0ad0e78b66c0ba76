"""What training may hide of a batch: a whole modality of some utterances, or a span of audio frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from features.ragged import Ragged
from mervn.config import TrainingOptions
from mervn.streams import modality_of


def augment(streams: Mapping[str, Ragged], options: TrainingOptions, seed: tuple[int, ...]) -> dict[str, Ragged]:
    """Return the streams of a batch with some utterances' text or audio empty, and spans of audio frames zero.

    A pure function of the streams' shapes, the options and `seed`. Of an utterance for which both modalities were
    drawn one is kept, either with a chance of one half. An audio span is a share of the utterance's frames, uniform in
    [0, time_mask], at a uniform place (Park et al. 2019, arXiv 1904.08779, section 2, on features instead of mels).
    """
    found = dict(streams)
    if not (options.drop_text or options.drop_audio or options.time_mask):
        return found
    rng = np.random.default_rng(seed)
    count = next(iter(streams.values())).batch_size
    draws = {"text": rng.random(count) < options.drop_text, "audio": rng.random(count) < options.drop_audio}
    text_first = rng.random(count) < 0.5
    both = draws["text"] & draws["audio"]
    draws["text"] &= ~both | text_first
    draws["audio"] &= ~both | ~text_first
    spans = rng.random(count) * options.time_mask, rng.random(count)
    for name, stream in streams.items():
        drawn = draws[modality_of(name)]
        if modality_of(name) == "audio" and options.time_mask:
            found[name] = _zero_spans(stream, *spans)
        if drawn.any():
            found[name] = _empty(found[name], drawn)
    return found


def _empty(stream: Ragged, drawn: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Ragged:
    """Return the stream without any row of the utterances drawn."""
    rows = [sequence[:0] if gone else sequence for sequence, gone in zip(stream.split(), drawn.tolist(), strict=True)]
    return Ragged.from_sequences(rows)


def _zero_spans(stream: Ragged, shares: np.ndarray[tuple[int], np.dtype[np.float64]],
                places: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ragged:  # fmt: skip
    """Return the stream with a span of each utterance's rows zero."""
    kept = torch.ones(stream.total, dtype=stream.values.dtype)
    start = 0
    for size, share, place in zip(stream.sizes, shares.tolist(), places.tolist(), strict=True):
        span = int(share * size)
        first = start + int(place * (size - span + 1))
        kept[first : first + span] = 0
        start += size
    shape = (-1,) + (1,) * (stream.values.ndim - 1)
    return stream.replace(stream.values * kept.to(stream.values.device).view(shape))
