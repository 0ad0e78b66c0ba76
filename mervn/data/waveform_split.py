"""WaveformSplit: decoded waveforms and tokenized transcripts, for training without stored features.

Other processes decode audio ahead. Every utterance is read once before training, to report unusable audio at the start.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress, repeat

import numpy as np
import torch
from torch import Tensor

from features.audio.decode_processes import PROCESSES
from features.audio.decoding import Decode, decode
from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError
from features.batching import plan_batches
from features.device import to_device
from features.encoders.base import Encoder
from features.errors import MAX_NAMED, InputError
from features.extraction.encoder_input import read_audio, transcript_of
from features.extraction.plan import MAX_BATCH
from features.extraction.prefetch import Prefetch
from features.manifests.manifest import Utterance
from features.memory import default_budget
from features.progress import SILENT, Reporter
from features.ragged import Ragged
from features.store.rejected import Rejection
from features.text.normalize import segmented_message, syllables, text_sha256
from mervn.data.augmentation import SpecMask
from mervn.data.split import Batch, BatchRequest, hash_content
from mervn.data.stored_split import index_targets
from mervn.data.streams import modality_of
from mervn.distributed import SINGLE_PROCESS, Processes

SCAN_BATCH = 16
"""Utterances per request when a split is read for the first time."""


@dataclass(frozen=True)
class ScannedAudio:
    """Result of decoding the audio of one utterance for the first time."""

    index: int
    """Index of the utterance among those of the manifest."""
    num_samples: int
    sha256: str
    fault: tuple[str, str] | None
    """(reason, message) if the audio cannot be used."""


@dataclass(frozen=True)
class Waves:
    """Waveforms that were decoded: samples at 16 kHz; size, hash and fault per utterance."""

    values: Tensor
    """(sum S,) float32: the samples of all utterances, concatenated."""
    sizes: list[int]
    """Number of samples of each utterance."""
    sha256: list[str]
    """Hash of the decoded samples before masking; empty if the audio cannot be used."""
    faults: list[tuple[str, str] | None]
    """(reason, message) if the audio cannot be used; then it has no samples. None otherwise."""


class _Reader:
    """Decodes and masks the audio of the utterances of one request."""

    def __init__(self, utterances: Sequence[Utterance], decode: Decode) -> None:
        self.utterances, self.decode = list(utterances), decode

    def read(self, request: BatchRequest) -> Waves:
        """Return the audio of one batch."""
        waves, sizes, hashes, faults = [], [], [], []
        masks: Sequence[SpecMask | None] = request.masks or [None] * len(request.indices)
        for index, mask in zip(request.indices, masks, strict=True):
            u, fault = self.utterances[index], None
            wave, sha256 = np.zeros(0, np.float32), ""  # of audio that cannot be used
            try:
                wave, sha256 = read_audio(u, self.decode)
                wave = wave if mask is None else mask.apply(wave, SAMPLE_RATE)
            except AudioError as error:
                fault = (error.reason, str(error))
            waves.append(wave)
            sizes.append(len(wave))
            hashes.append(sha256)
            faults.append(fault)
        return Waves(torch.from_numpy(np.concatenate(waves)), sizes, hashes, faults)


def read_waves(utterances: Sequence[Utterance], plan: Sequence[BatchRequest], workers: int) -> Iterator[Waves]:
    """Decode the batches of a plan in order, in advance in `workers` processes.

    With 0 workers, each batch is decoded on demand.
    """
    reader = _Reader(utterances, PROCESSES.decode if workers else decode)
    # nothing while waiting: a training that was interrupted first completes its step
    prefetch = Prefetch[BatchRequest, Waves](reader.read, workers, _num_bytes, lambda: None)
    with closing(prefetch):
        prefetch.add((request, None) for request in plan)
        for _ in plan:
            yield prefetch.take()


def _num_bytes(waves: Waves) -> int:
    return waves.values.nbytes


class WaveformSplit:
    """The utterances of one split; every batch decodes their audio again. Implements `Split`."""

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        labels: Sequence[str],
        encoders: Mapping[str, Encoder],
        workers: int,
        reporter: Reporter = SILENT,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.name, self.encoders, self.workers = name, dict(encoders), workers
        self.rejected: list[Rejection] = []
        self.has_audio = any(encoder.modality == "audio" for encoder in encoders.values())
        self.num_samples, self.audio_sha256 = np.zeros(len(utterances), np.int64), [""] * len(utterances)
        self.utterances = list(utterances)
        if self.has_audio:
            self._scan(utterances, reporter, processes)
            self._drop_rejected()
        self.missing = [rejection.utterance for rejection in self.rejected]
        if not self.utterances:
            raise InputError(f"{name}: none of the {len(utterances)} utterances can be used: {self.rejected[0].detail}")
        self.targets = index_targets(self.utterances, labels)
        self.transcripts = list(map(transcript_of, self.utterances))
        self.tokens: dict[str, list[Tensor]] = {}
        """By text stream, the token ids (T,) of each utterance."""
        for stream, encoder in encoders.items():
            if encoder.modality == "text":
                self.tokens[stream] = list(map(encoder.prepare, self.transcripts))
        self.audio_seconds = self.num_samples / SAMPLE_RATE
        counts = (len(syllables(transcript)) if self.tokens else 0 for transcript in self.transcripts)
        self.syllables = np.fromiter(counts, np.int64, len(self.utterances))

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def lengths(self) -> Mapping[str, list[int]]:
        """Frames or tokens of each utterance after its encoder, by stream."""
        lengths = {}
        for name, encoder in self.encoders.items():
            sizes = list(map(len, self.tokens[name])) if name in self.tokens else self.num_samples.tolist()
            lengths[name] = [int(encoder.get_feat_lengths(int(size))) if size else 0 for size in sizes]
        return lengths

    def stream_sha256(self, stream: str) -> list[str]:
        """Return the hash of each utterance's audio or transcript, as a store records it."""
        return self.audio_sha256 if modality_of(stream) == "audio" else list(map(text_sha256, self.transcripts))

    @property
    def inputs_sha256(self) -> str:
        """Hash over the ids and input hashes of the N utterances."""
        digest = hashlib.sha256()
        for name in sorted(self.encoders):
            for one, sha256 in zip(self.utterances, self.stream_sha256(name), strict=True):
                digest.update(f"{name}|{one.utterance_id}|{sha256}\n".encode())
        return digest.hexdigest()

    @property
    def content_sha256(self) -> Mapping[str, str]:
        """Hash of the audio and of the transcripts, by modality that is read."""
        return {modality_of(one): hash_content(self.utterances, self.stream_sha256(one)) for one in self.encoders}

    @property
    def costs(self) -> list[float]:
        """Seconds of audio, with the encoder's padding, to encode for each utterance.

        Tokens if no stream is audio.
        """
        if not self.has_audio:
            return [float(sum(map(len, tokens))) for tokens in zip(*self.tokens.values(), strict=True)]
        costs = []
        for num_samples in self.num_samples.tolist():
            padded = 0
            for encoder in self.encoders.values():
                if encoder.modality == "audio":
                    padded = max(padded, encoder.get_padded_length(num_samples))
            costs.append(padded / SAMPLE_RATE)
        return costs

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return batches of utterances of similar cost, as indices.

        Their size is limited like that of batches of an extraction, to at most 64 utterances.
        """
        modality = "audio" if self.num_samples.any() else "text"
        return plan_batches(self.costs, default_budget(modality, device), min(MAX_BATCH, 64))

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order; other processes decode in advance.

        InputError if a file has changed since the training began.
        """
        decoded = read_waves(self.utterances, plan, self.workers) if self.has_audio else repeat(None)
        for request, waves in zip(plan, decoded, strict=False):  # repeat(None) is endless
            indices = list(request.indices)
            by_index: dict[int, Tensor] = {}
            if waves is not None:
                self._refuse_changed(indices, waves)
                by_index = dict(zip(indices, waves.values.split(waves.sizes), strict=True))
            targets = to_device(torch.from_numpy(self.targets[indices]), device)
            # _prepare runs later: if memory is full, the caller can retry with fewer utterances.
            yield Batch(indices, targets, partial(self._prepare, by_index, device))

    def _prepare(self, waves: Mapping[int, Tensor], device: torch.device, indices: Sequence[int]) -> dict[str, Ragged]:
        """Return the inputs of the encoders: samples (sum S,) or token ids (sum T,) by stream."""
        streams = {}
        for name, encoder in self.encoders.items():
            if name in self.tokens:
                prepared = [self.tokens[name][i] for i in indices]
            else:
                prepared = [encoder.prepare(waves[i].numpy()) for i in indices]
            streams[name] = Ragged.from_sequences(prepared).to(device)
        return streams

    def _refuse_changed(self, indices: Sequence[int], waves: Waves) -> None:
        """Raise InputError for audio that changed or became unreadable since training began."""
        for index, fault, sha256 in zip(indices, waves.faults, waves.sha256, strict=True):
            # Masks are applied after hashing, so the hashes are comparable.
            if fault is not None or sha256 != self.audio_sha256[index]:
                u = self.utterances[index]
                change = fault[1] if fault else f"{u.audio_path} has other content"
                raise InputError(
                    f"{u.file}:{u.line} {u.utterance_id!r}: audio must not change during training, but now {change}"
                )

    def _scan(self, utterances: Sequence[Utterance], reporter: Reporter, processes: Processes) -> None:
        """Decode all audio once, to get lengths, hashes and rejections.

        Several processes divide the work.
        """
        mine = processes.portion(range(len(utterances)))
        plan = [BatchRequest(mine[i : i + SCAN_BATCH]) for i in range(0, len(mine), SCAN_BATCH)]
        scanned: list[ScannedAudio] = []
        with closing(reporter.progress(len(mine), 0, f"reading {self.name}")) as bar:
            for request, read in zip(plan, read_waves(utterances, plan, self.workers), strict=True):
                scanned += map(ScannedAudio, request.indices, read.sizes, read.sha256, read.faults)
                bar.update(len(request.indices))
        # Every process needs all results. Sort them: each process read every n-th utterance.
        gathered = chain.from_iterable(processes.gather(scanned))
        for audio in sorted(gathered, key=lambda audio: audio.index):
            self.num_samples[audio.index] = audio.num_samples
            self.audio_sha256[audio.index] = audio.sha256
            if audio.fault is not None:
                self.rejected.append(Rejection(utterances[audio.index], *audio.fault))

    def _drop_rejected(self) -> None:
        """Keep only the utterances whose audio can be used."""
        rejected_ids = {rejection.utterance.utterance_id for rejection in self.rejected}
        usable = np.ones(len(self.utterances), bool)
        for i, utterance in enumerate(self.utterances):
            usable[i] = utterance.utterance_id not in rejected_ids
        self.utterances = list(compress(self.utterances, usable))
        self.audio_sha256 = list(compress(self.audio_sha256, usable))
        self.num_samples = self.num_samples[usable]


def refuse_rejected(splits: Mapping[str, WaveformSplit], allow_missing: bool) -> None:
    """Raise InputError if audio cannot be used, unless `allow_missing`."""
    rejected = list(chain.from_iterable(split.rejected for split in splits.values()))
    if not rejected or allow_missing:
        return
    lines = [f"the audio of {len(rejected)} utterances cannot be used:"]
    for rejection in rejected[:MAX_NAMED]:
        u = rejection.utterance
        lines.append(f"  {u.file}:{u.line} {u.utterance_id!r}: {rejection.reason}: {rejection.detail}")
    if len(rejected) > MAX_NAMED:
        lines.append(f"  and {len(rejected) - MAX_NAMED} more")
    lines.append("fix the audio, or leave these utterances out (they are counted in every result): --allow-missing")
    raise InputError("\n".join(lines))


def warn_segmented(splits: Mapping[str, WaveformSplit], encoders: Mapping[str, Encoder]) -> None:
    """Warn about transcripts that are already word-segmented, once per text encoder.

    They are not segmented again.
    """
    for encoder in encoders.values():
        transcripts = chain.from_iterable(split.transcripts for split in splits.values())
        counts = encoder.count_tokens(transcripts)
        if counts is not None and counts.segmented:
            warnings.warn(segmented_message(counts.segmented), stacklevel=2)
