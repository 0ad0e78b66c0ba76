"""Comparison of ONNX files with the model: several batch sizes, lengths, missing inputs, and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.device import exact_fp32
from features.encoders.base import Encoder
from features.encoders.whisper import Whisper
from features.errors import InputError
from features.ragged import Ragged
from features.random_streams import Purpose, generator
from features.text.normalize import normalize_text
from mervn.data.streams import StreamShape
from mervn.model.end_to_end import encode_inputs
from mervn.model.head import Head
from mervn.use.canary import TEXT
from mervn.use.onnx_model import HALF, min_length
from mervn.use.run_encoders import StreamEncoder
from mervn.use.run_model import RunModel

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-4
"""Maximum difference of a probability."""
BATCHES = ((1,), (9, 4), (0, 23, 1, 6), (2, 2, 31, 0, 17, 5))
"""Lengths of the features of each checked batch; 0 is a missing input."""
SECONDS = ((0.31,), (0.9, 0.4, 0.0, 1.7))
"""Seconds of audio in each checked batch of encoder inputs."""
EXTRA = 3
"""Frames of padding beyond the longest sequence."""
GARBAGE = 1e3
"""Value written into the padding, which must not matter."""


def check_head(head: Head, shapes: Mapping[str, StreamShape], file: Path) -> float:
    """Return the maximum difference of a probability of head.onnx from the head, over all batches.

    The head reads packed features, the file padded ones. Raises InputError above `TOLERANCE`.
    """
    session, worst = open_session(file), 0.0
    generator = torch.Generator().manual_seed(0)
    for number, sizes in enumerate(BATCHES):
        features: dict[str, Ragged] = {}
        inputs: dict[str, Array] = {}
        for offset, (name, shape) in enumerate(shapes.items()):
            # another order of the lengths in each stream, so that each is missing in another utterance
            rolled = [sizes[(i + offset) % len(sizes)] for i in range(len(sizes))]
            several = [len(shape.layers)] if len(shape.layers) > 1 else []
            values = torch.randn(sum(rolled), *several, shape.width, generator=generator)
            features[name] = Ragged.from_lengths(values, rolled)
            inputs |= padded_inputs(name, features[name].split(), EXTRA * number)
        with torch.inference_mode(), exact_fp32():
            expected = head.classify(features)
        worst = max(worst, _compare(session, inputs, expected, file))
    return worst


def check_model(model: RunModel, file: Path) -> float:
    """Return the maximum difference of a probability of model.onnx from encoders and head, over all batches."""
    session, worst = open_session(file), 0.0
    for number, durations in enumerate(SECONDS):
        features: dict[str, Ragged] = {}
        inputs: dict[str, Array] = {}
        for name, stream in model.encoders.items():
            encoder = stream.encoder
            prepared = _prepared(encoder, durations)
            features[name] = _rounded(encoder, prepared, stream)
            inputs |= encoder_inputs(name, encoder, prepared, EXTRA * number)
        with torch.inference_mode(), exact_fp32():
            expected = model.head.classify(features)
        worst = max(worst, _compare(session, inputs, expected, file))
    return worst


def _prepared(encoder: Encoder, durations: Sequence[float]) -> list[Tensor]:
    """Return prepared inputs of an encoder: noise of these durations, or the first words of the canary's text."""
    if encoder.modality == "text":
        words = normalize_text(TEXT).split()
        # the last one is empty, so that text and audio are missing in different utterances
        texts = [" ".join(words[: 2 * i + 1]) for i in range(len(durations) - 1)]
        return list(map(encoder.prepare, [*texts, "" if texts else TEXT]))
    noise = generator(Purpose.ENCODER_INPUT)
    samples = [0.1 * noise.standard_normal(round(16_000 * seconds)).astype(np.float32) for seconds in durations]
    return [encoder.prepare(wave) if len(wave) else torch.zeros(0) for wave in samples]


def _rounded(encoder: Encoder, prepared: Sequence[Tensor], stream: StreamEncoder) -> Ragged:
    """Return the features of prepared inputs, rounded as the head was trained on them."""
    present = [one for one in prepared if len(one)]
    values = torch.cat(present) if present else prepared[0]
    with torch.inference_mode(), exact_fp32():
        features = encode_inputs(encoder, Ragged.from_lengths(values, [len(one) for one in prepared]))
    return features.map(lambda frames: frames.half().float()) if stream.store_dtype == HALF else features


def encoder_inputs(name: str, encoder: Encoder, prepared: Sequence[Tensor], extra: int) -> dict[str, Array]:
    """Return the inputs of model.onnx for prepared inputs of one stream."""
    if not isinstance(encoder, Whisper):
        return padded_inputs(name, prepared, extra, minimum=min_length(encoder))
    silence = torch.zeros(1)
    mel = encoder.log_mel([one if len(one) else silence for one in prepared])
    return {name: mel.numpy(), f"{name}_lengths": np.array([len(one) for one in prepared], np.int64)}


def padded_inputs(name: str, sequences: Sequence[Tensor], extra: int, minimum: int = 1) -> dict[str, Array]:
    """Return sequences (T_i, ...) padded with garbage to `extra` frames more than the longest, and their lengths."""
    longest = max(minimum, max(map(len, sequences)) + extra)
    present = next((one for one in sequences if len(one)), sequences[0])
    garbage = GARBAGE if present.is_floating_point() else 0
    padded = torch.full((len(sequences), longest, *present.shape[1:]), garbage, dtype=present.dtype)
    for place, sequence in zip(padded, sequences, strict=True):
        place[: len(sequence)] = sequence
    lengths = np.array([len(one) for one in sequences], np.int64)
    return {name: padded.numpy(), f"{name}_lengths": lengths}


def open_session(file: Path) -> Any:
    """Return an onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _compare(session: Any, inputs: Mapping[str, Array], expected: Tensor, file: Path) -> float:
    """Return the maximum difference of a probability in one batch; InputError above the tolerance."""
    wanted = {node.name for node in session.get_inputs()}
    (logits,) = session.run(["logits"], {name: array for name, array in inputs.items() if name in wanted})
    found = torch.from_numpy(logits).double().softmax(-1)
    difference = float((found - expected.double().softmax(-1)).abs().max())
    if not difference <= TOLERANCE:  # holds for NaN, too
        sizes = {name: array.tolist() for name, array in inputs.items() if name.endswith("_lengths")}
        raise InputError(
            f"{file.name} must give the probabilities of the model within {TOLERANCE}, found a difference of "
            f"{difference:.2g} for {sizes}: no ONNX file is written"
        )
    return difference
