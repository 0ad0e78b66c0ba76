"""Scoring of clips: encode each stream as in an extraction, then apply the head as in an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError
from features.audio.segment_reader import SegmentReader
from features.batching import plan_batches
from features.device import exact_fp32, precision_context
from features.errors import InputError
from features.extraction.encode import encode
from features.extraction.plan import MAX_BATCH
from features.memory import MemoryBudget, default_budget
from features.ragged import Ragged
from features.signals import check_interrupted
from features.store.part import DTYPES
from features.text.normalize import normalize_text
from mervn.data.stored_split import EVALUATION_BATCH
from mervn.use.clip_reader import ClipReader
from mervn.use.clips import Clip
from mervn.use.run_encoders import StreamEncoder
from mervn.use.run_model import RunModel

Array = np.ndarray[Any, Any]
NO_SAMPLES = np.zeros(0, np.float32)
BLOCK_S, MAX_BLOCK = 240.0, 1024
"""Seconds of audio and number of clips that are decoded and encoded before any result is kept."""
Features = dict[str, Tensor]
"""By stream the features (T, D) float32 of one clip, or (T, L, D) to mix layers; T = 0 without input."""


class Scorer:
    """Computes features and probabilities of clips with a `RunModel`.

    A clip's numbers do not depend on the other clips. Streams that a clip lacks are empty, as those
    of an utterance without transcript are. `workers` other processes decode files; `close` stops
    the threads that wait for them.
    """

    def __init__(self, model: RunModel, batch_seconds: float | None = None, workers: int = 0) -> None:
        self.model, self.reader = model, SegmentReader()
        self._clips = ClipReader(workers, self.reader)
        self.batch_budget = {name: default_budget(name, model.device) for name in ("text", "audio")}
        """Maximum padded seconds of audio, or tokens, per batch of an encoder."""
        if batch_seconds is not None:
            self.batch_budget["audio"] = batch_seconds
        self._memory = {name: MemoryBudget(model.device) for name in (*model.encoders, "head")}

    def read_ahead(self, clips: Sequence[Clip], seconds: Sequence[float]) -> None:
        """Begin to decode clips of these durations that will be read next, after those that are being read."""
        self._clips.prepare(clips, seconds)

    def read(self, clips: Sequence[Clip]) -> Iterator[Array | AudioError]:
        """Yield the samples (S,) of each clip, or why they cannot be read."""
        return self._clips.read(clips)

    def close(self) -> None:
        """Stop reading."""
        self._clips.close()

    def score(self, clips: Sequence[Clip], samples: Sequence[Array] | None = None) -> list[Array | AudioError]:
        """Return the probabilities (C,) float64 of each clip, or why its audio cannot be used.

        Inputs that are too long for the memory are such a reason too. `samples` (S,) of each clip are given if they
        were read before.
        """
        features = self.features(clips, samples)
        usable = [one for one in features if not isinstance(one, AudioError)]
        scores = iter(self.classify(usable))
        return [one if isinstance(one, AudioError) else next(scores) for one in features]

    def features(self, clips: Sequence[Clip], samples: Sequence[Array] | None = None) -> list[Features | AudioError]:
        """Return the features of each clip, or why they cannot be computed; `samples` as for `score`."""
        found: list[Features | AudioError] = [{} for _ in clips]
        waves: dict[int, Array] = {}
        for i, read in enumerate(self._samples(clips) if samples is None else samples):
            if isinstance(read, AudioError):
                found[i] = read
            else:
                waves[i] = read
        for name, stream in self.model.encoders.items():
            prepared = {i: _prepare(stream, wave, clips[i]) for i, wave in waves.items()}
            for i, values in self._encode(name, stream, prepared).items():
                features = found[i]
                if isinstance(values, AudioError):
                    found[i] = values
                elif not isinstance(features, AudioError):
                    features[name] = values
        return found

    def classify(self, features: Sequence[Features]) -> Array:
        """Return probabilities (N, C) float64 from the features of N clips, in fp32 without TF32.

        InputError if a clip does not fit into memory, or if a probability is not finite.
        """
        result = np.empty((len(features), len(self.model.labels)))
        if not features:
            return result
        costs = [float(sum(map(len, one.values()))) for one in features]
        plan = plan_batches(costs, max(1.0, *costs) * EVALUATION_BATCH, EVALUATION_BATCH)

        def compute(part: list[int]) -> Array:
            streams = join([features[i] for i in part])
            probabilities: Array = self.model.head(streams).double().softmax(-1).cpu().numpy()
            return probabilities

        with exact_fp32(), torch.inference_mode():
            for batch in plan:
                for part, probabilities in self._memory["head"].run(batch, costs, compute):
                    if probabilities is None:
                        raise InputError(f"one clip of {costs[part[0]]:.0f} frames must fit into {self.model.device}")
                    result[part] = probabilities
        for scores in result[~np.isfinite(result).all(1)][:1]:
            raise InputError(f"the model {self.model.path} must give finite probabilities, found {scores.tolist()}")
        return result

    def _samples(self, clips: Sequence[Clip]) -> Iterable[Array | AudioError]:
        """Return the samples (S,) of each clip, none if the model reads no audio, or why they cannot be read."""
        return self.read(clips) if "audio" in self.model.modalities else [NO_SAMPLES] * len(clips)

    def _encode(self, name: str, stream: StreamEncoder, prepared: dict[int, Tensor]) -> dict[int, Tensor | AudioError]:
        """Return the features (T, D) or (T, L, D) float32 of prepared inputs, by index."""
        encoder, device = stream.encoder, self.model.device
        unit = SAMPLE_RATE if encoder.modality == "audio" else 1  # seconds or tokens
        indices = list(prepared)
        costs = [encoder.get_padded_length(len(prepared[i])) / unit if len(prepared[i]) else 0.0 for i in indices]
        found: dict[int, Tensor | AudioError] = {}
        with precision_context(device, stream.precision):
            for batch in plan_batches(costs, self.batch_budget[encoder.modality], MAX_BATCH):
                check_interrupted()
                inputs = [prepared[indices[place]] for place in batch]
                for place, layers in zip(batch, encode(inputs, encoder, device, self._memory[name]), strict=True):
                    found[indices[place]] = _to_features(layers, stream, device)
        return found


def _prepare(stream: StreamEncoder, samples: Array, clip: Clip) -> Tensor:
    """Return the input of an encoder; of length 0 if the clip lacks the modality."""
    if stream.encoder.modality == "text":
        tokens: Tensor = stream.encoder.prepare(normalize_text(clip.text or ""))
        return tokens
    return stream.encoder.prepare(samples) if len(samples) else torch.zeros(0)


def join(features: Sequence[Features]) -> dict[str, Ragged]:
    """Return the streams of a batch of clips."""
    streams = {}
    for name in features[0]:
        streams[name] = Ragged.from_sequences([one[name] for one in features])
    return streams


def _to_features(layers: list[Array] | None, stream: StreamEncoder, device: torch.device) -> Tensor | AudioError:
    """Return the features of one input as the head reads them, rounded as in the store of the run."""
    if layers is None:
        return AudioError("out_of_memory", "the input must fit into memory: cut it into shorter segments")
    if not all(np.isfinite(values).all() for values in layers):
        return AudioError("non_finite_features", "the encoder output must be finite, found NaN or infinity")
    if stream.store_dtype is not None:
        dtype = DTYPES[stream.store_dtype]
        peak = max(float(np.abs(values).max(initial=0.0)) for values in layers)
        if peak > float(np.finfo(dtype).max):
            return AudioError("too_large_features", f"features must fit into {stream.store_dtype}, found {peak:.6g}")
        layers = [values.astype(dtype) for values in layers]
    tensors = [torch.from_numpy(values).float() for values in layers]
    return (tensors[0] if len(tensors) == 1 else torch.stack(tensors, dim=1)).to(device)


def plan_blocks(seconds: Sequence[float], budget: float) -> list[range]:
    """Divide clips, in their order, into blocks of bounded memory; a function of the arguments alone.

    A block holds at most `MAX_BLOCK` clips and, unless it is a single one, `BLOCK_S` seconds of
    audio or two batches of `budget`.
    """
    limit = max(BLOCK_S, 2 * budget)
    blocks: list[range] = []
    first, total = 0, 0.0
    for i, length in enumerate(seconds):
        if i > first and (total + length > limit or i - first >= MAX_BLOCK):
            blocks.append(range(first, i))
            first, total = i, 0.0
        total += length
    if len(seconds) > first:
        blocks.append(range(first, len(seconds)))
    return blocks
