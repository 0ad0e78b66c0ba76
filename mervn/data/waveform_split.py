"""A split for training end to end: decoded waveforms and prepared transcripts in place of stored features.

Audio is decoded and resampled in worker processes, a bounded number of batches ahead. Every utterance is read once
before training: what cannot be used is found then, not in the night.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from features.audio.segment import AudioError
from features.batching import plan_batches
from features.encoders.base import Encoder
from features.errors import InputError
from features.extraction.encoder_input import SAMPLE_RATE, read_audio, transcript_of
from features.extraction.plan import MAX_BATCH
from features.manifests.manifest import Utterance
from features.memory import default_budget
from features.progress import Progress
from features.ragged import Ragged, to_device
from features.store.rejected import Rejection
from features.text.normalize import segmented_message, syllables, text_sha256
from mervn.data.augmentation import SpecMask
from mervn.data.stored_split import index_targets
from mervn.data.streams import modality_of
from mervn.distributed import ALONE, World

SHOWN = 5
SCAN_BATCH = 16
AHEAD = 2
"""Batches that each worker may be ahead."""


@dataclass(frozen=True)
class Waves:
    """What a worker read: waveforms at 16 kHz one after another, and for each its length, hash or fault."""

    values: Tensor
    sizes: list[int]
    sha256: list[str]
    faults: list[tuple[str, str] | None]
    """(reason, message) of what cannot be used; it has no samples."""


Masks = Sequence[SpecMask]
"""One an utterance of a batch, or none at all."""


class _Reader(Dataset[Waves]):
    """Reads the audio of a list of utterances at once, and masks it."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = list(utterances)

    def __getitem__(self, batch: Any) -> Waves:
        indices, masks = batch
        waves, hashes, faults = [], [], []
        for index, mask in zip(indices, masks or [None] * len(indices), strict=True):
            u, fault = self.utterances[index], None
            wave, sha256 = np.zeros(0, np.float32), ""
            try:
                wave, sha256 = read_audio(u)
                wave = wave if mask is None else mask.apply(wave, SAMPLE_RATE)
            except AudioError as error:
                fault = (error.reason, str(error))
            waves.append(wave)
            hashes.append(sha256)
            faults.append(fault)
        return Waves(torch.from_numpy(np.concatenate(waves)), [len(wave) for wave in waves], hashes, faults)


def read_waves(
    utterances: Sequence[Utterance], batches: Sequence[Sequence[int]], workers: int, masks: Sequence[Masks] = ()
) -> Iterator[Waves]:
    """Read batches of utterances in their order, ahead in `workers` processes; 0: in this one, when asked for."""
    items = list(zip(map(list, batches), masks or [()] * len(batches), strict=True))
    # a generator of its own, for the loader draws a seed, which would move what dropout draws after a resume
    loader = DataLoader(
        _Reader(utterances), batch_size=None, sampler=items, num_workers=workers,
        prefetch_factor=AHEAD if workers else None, generator=torch.Generator(),
    )  # fmt: skip
    return iter(loader)


class LiveSplit:
    """The utterances of one split, their inputs read anew for every batch. The same face as a `Split`."""

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        labels: Sequence[str],
        encoders: Mapping[str, Encoder],
        workers: int,
        progress: Progress,
        world: World = ALONE,
    ) -> None:
        self.name, self.encoders, self.workers = name, dict(encoders), workers
        self.rejected: list[Rejection] = []
        with_audio = any(encoder.modality == "audio" for encoder in encoders.values())
        self.num_samples, self.audio_sha256 = np.zeros(len(utterances), np.int64), [""] * len(utterances)
        if with_audio:
            self._scan(utterances, progress, world)
        bad = {rejection.utterance.utterance_id for rejection in self.rejected}
        kept = [i for i, u in enumerate(utterances) if u.utterance_id not in bad]
        self.utterances = [utterances[i] for i in kept]
        self.missing = [u for u in utterances if u.utterance_id in bad]
        self.num_samples = self.num_samples[kept]
        self.audio_sha256 = [self.audio_sha256[i] for i in kept]
        if not self.utterances:
            raise InputError(f"{name}: none of the {len(utterances)} utterances can be used: {self.rejected[0].detail}")
        self.targets = index_targets(self.utterances, labels)
        self.transcripts = [transcript_of(u) for u in self.utterances]
        with_text = any(encoder.modality == "text" for encoder in encoders.values())
        self.tokens = {s: [e.prepare(t) for t in self.transcripts] for s, e in encoders.items() if e.modality == "text"}
        self.audio_seconds = self.num_samples / SAMPLE_RATE
        self.syllables = np.array([len(syllables(t)) if with_text else 0 for t in self.transcripts], np.int64)
        self._expected: Iterator[Waves] | None = None
        self._plan: list[list[int]] = []
        self._held: dict[int, Tensor] = {}
        self._masked = False

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def rows(self) -> dict[str, list[int]]:
        """The rows of features that each stream will have of each utterance."""
        found = {}
        for name, encoder in self.encoders.items():
            sizes = [len(t) for t in self.tokens[name]] if name in self.tokens else self.num_samples.tolist()
            found[name] = [int(encoder.get_feat_lengths(int(size))) if size else 0 for size in sizes]
        return found

    def input_sha256(self, stream: str) -> list[str]:
        """Return the hash of each utterance's input to a stream, as a store records it."""
        return self.audio_sha256 if modality_of(stream) == "audio" else [text_sha256(t) for t in self.transcripts]

    @property
    def inputs_sha256(self) -> str:
        """Over ids and input hashes of the utterances used."""
        digest = hashlib.sha256()
        for name in sorted(self.encoders):
            for utterance, sha256 in zip(self.utterances, self.input_sha256(name), strict=True):
                digest.update(f"{name}|{utterance.utterance_id}|{sha256}\n".encode())
        return digest.hexdigest()

    def count_empty(self) -> dict[str, int]:
        """Return how many sequences of each stream have no rows."""
        return {name: sum(not size for size in sizes) for name, sizes in self.rows.items()}

    @property
    def costs(self) -> list[float]:
        """What scoring each utterance costs: the seconds of audio that are computed, or tokens if there is no audio."""
        audio = [encoder for encoder in self.encoders.values() if encoder.modality == "audio"]
        if not audio:
            return [float(sum(map(len, tokens))) for tokens in zip(*self.tokens.values(), strict=True)]
        samples = [int(size) for size in self.num_samples]
        return [max(encoder.get_padded_length(size) for encoder in audio) / SAMPLE_RATE for size in samples]

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return batches of like cost within what an extraction takes at once."""
        modality = "audio" if self.num_samples.any() else "text"
        return plan_batches(self.costs, default_budget(modality, device), min(MAX_BATCH, 64))

    def expect(self, batches: Sequence[Sequence[int]], masks: Sequence[Masks] = ()) -> None:
        """Begin to read these batches, masked if there are masks; `batch` then gives them in their order."""
        self._plan = [list(batch) for batch in batches]
        self._held, self._masked = {}, bool(masks)
        if any(encoder.modality == "audio" for encoder in self.encoders.values()):
            self._expected = read_waves(self.utterances, self._plan, self.workers, masks)

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Ragged]:
        """Return the prepared inputs of some utterances: samples (sum S,) or token ids (sum T,)."""
        waves = self._waves(indices)
        streams = {}
        for name, encoder in self.encoders.items():
            if name in self.tokens:
                prepared = [self.tokens[name][i] for i in indices]
            else:
                prepared = [encoder.prepare(wave.numpy()) for wave in waves]
            streams[name] = Ragged.from_sequences(prepared).to(device)
        return streams

    def batch_targets(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return the targets (B,) int64 of some utterances."""
        return to_device(torch.from_numpy(self.targets[list(indices)]), device)

    def _waves(self, indices: Sequence[int]) -> list[Tensor]:
        """Return the waveforms of a batch; InputError where a file is not what it was before training."""
        if all(encoder.modality == "text" for encoder in self.encoders.values()):
            return []
        wanted, planned = list(indices), self._plan[0] if self._plan else []
        held = not self._masked and self._held.keys() >= set(wanted)
        part = not self._masked and not held and set(planned) >= set(wanted)
        if self._expected is not None and (planned == wanted or part):
            numbers, read = self._plan.pop(0), next(self._expected)
        elif held:  # another part of a batch that did not fit into memory whole
            return [self._held[i] for i in wanted]
        else:
            numbers, read = wanted, _Reader(self.utterances)[wanted, ()]
        for index, fault, sha256 in zip(numbers, read.faults, read.sha256, strict=True):
            if fault is not None or sha256 != self.audio_sha256[index]:
                u = self.utterances[index]
                what = fault[1] if fault else f"{u.audio_path} was changed"
                raise InputError(f"{u.file}:{u.line} {u.utterance_id!r} was readable when the training began: {what}")
        waves = list(read.values.split(read.sizes))
        self._held = {} if self._masked else dict(zip(numbers, waves, strict=True))
        return waves if numbers == wanted else [self._held[i] for i in wanted]

    def _scan(self, utterances: Sequence[Utterance], progress: Progress, world: World) -> None:
        """Decode everything once: lengths, hashes, and what cannot be used. Several processes share the work."""
        mine = world.share(range(len(utterances)))
        batches = [list(mine[i : i + SCAN_BATCH]) for i in range(0, len(mine), SCAN_BATCH)]
        found = []
        with closing(progress(len(mine), 0, f"reading {self.name}")) as bar:
            for batch, read in zip(batches, read_waves(utterances, batches, self.workers), strict=True):
                found += list(zip(batch, read.sizes, read.sha256, read.faults, strict=True))
                bar.update(len(batch))
        for index, size, sha256, fault in sorted(
            (each for part in world.gather(found) for each in part), key=lambda each: each[0]
        ):
            self.num_samples[index], self.audio_sha256[index] = size, sha256
            if fault is not None:
                self.rejected.append(Rejection(utterances[index], *fault))


def refuse_rejected(splits: Mapping[str, LiveSplit], allow_missing: bool) -> None:
    """Raise InputError where audio cannot be used, unless `allow_missing`; such utterances are always counted."""
    rejected = [rejection for split in splits.values() for rejection in split.rejected]
    if rejected and not allow_missing:
        lines = []
        for one in rejected[:SHOWN]:
            u = one.utterance
            lines.append(f"  {u.file}:{u.line} {u.utterance_id!r}: {one.reason}: {one.detail}")
        more = [f"  and {len(rejected) - SHOWN} more"] if len(rejected) > SHOWN else []
        raise InputError(
            "\n".join([f"the audio of {len(rejected)} utterances cannot be used:", *lines, *more])
            + "\nmend it, or go on without them, counted in every result: --allow-missing"
        )


def warn_segmented(splits: Mapping[str, LiveSplit], encoders: Mapping[str, Encoder]) -> None:
    """Warn of transcripts that came segmented and are not segmented again, once for each text encoder."""
    for encoder in encoders.values():
        counts = encoder.count_tokens(text for split in splits.values() for text in split.transcripts)
        if counts is not None and counts.segmented:
            warnings.warn(segmented_message(counts.segmented), stacklevel=2)
