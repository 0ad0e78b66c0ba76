"""Cache of log-mel frames: computed once, stored as float16 in one memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.audio.resampling import SAMPLE_RATE
from features.cpu_threads import usable_cores
from features.encoders.fourier2vec import Fourier2Vec
from features.extraction.unit import Unit
from features.extraction.unit_reader import UnitReader
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.ragged import Ragged
from features.store.rejected import Rejection


class Frames:
    """Raw log-mel frames (F, num_mels) of utterances, by index.

    `path` is a file of float16 values, and `sizes` the number of frames F of each utterance.
    """

    def __init__(self, path: Path, sizes: Sequence[int], num_mels: int, seconds: float, audio_sha256: str) -> None:
        self.sizes = list(sizes)
        self.seconds = seconds
        """Duration of all utterances."""
        self.audio_sha256 = audio_sha256
        """Hash of the decoded samples of all utterances."""
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        shape = (int(self._offsets[-1]), num_mels)
        self._values = np.memmap(path, np.float16, "r", shape=shape) if shape[0] else np.zeros(shape, np.float16)

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, index: int, first: int, last: int) -> Tensor:
        """Return frames first..last - 1 of an utterance, float32 (last - first, num_mels)."""
        offset = self._offsets[index]
        return torch.from_numpy(self._values[offset + first : offset + last].astype(np.float32))


def read_frames(
    utterances: Sequence[Utterance], encoder: Fourier2Vec, path: Path, reporter: Reporter
) -> tuple[Frames, list[Rejection]]:
    """Write the log-mel frames of all utterances to `path`.

    Return the frames, and the rejected utterances with the reasons.
    """
    sizes: list[int] = []
    rejected: list[Rejection] = []
    samples, digest = 0, hashlib.sha256()
    unit = Unit("log-mel", [[utterance] for utterance in utterances], [])
    with (
        path.open("wb") as file, closing(reporter.progress(len(utterances), 0)) as bar, torch.inference_mode(),
        closing(UnitReader(encoder, usable_cores())) as reader,
    ):  # fmt: skip
        for read in reader.batches(unit):
            bar.update(1)
            rejected += [Rejection(one.utterance, one.reason, one.detail) for one in read.rejected]
            for item in read.inputs:
                frames = encoder.raw_log_mel(Ragged.from_sequences([item.prepared])).values.to(torch.float16).numpy()
                if not np.isfinite(frames).all():
                    detail = "the log-mel frames hold NaN or infinity"
                    rejected.append(Rejection(item.utterance, "non_finite_features", detail))
                    continue
                file.write(frames.tobytes())
                sizes.append(len(frames))
                samples += item.num_inputs
                digest.update(item.input_sha256.encode())
    return Frames(path, sizes, encoder.config["num_mels"], samples / SAMPLE_RATE, digest.hexdigest()), rejected
