"""StoredSplit: the utterances of a manifest joined with their features in one or more stores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from features.batching import plan_batches
from features.errors import InputError
from features.extraction.encoder_input import transcript_of
from features.manifests.label_names import lookalike_hint
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.ragged import Ragged, to_device
from features.text.normalize import syllables
from mervn.data.feature_checks import refuse_changed, refuse_missing, refuse_training_utterances
from mervn.data.split import SHOWN, Batch, BatchRequest
from mervn.data.stored_sequences import Sequences
from mervn.data.streams import Stream

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class StoredSplit:
    """The utterances of one split that have features, in the order of the manifest."""

    name: str
    utterances: list[Utterance]
    missing: list[Utterance]
    """Utterances that a store lacks, or has rejected as they are now; never trained on or scored, always counted."""
    targets: np.ndarray[Any, Any]
    """(N,) int64, index into the labels."""
    streams: Mapping[str, list[Sequences]]
    """For each stream and each of its layers the N sequences (T, D)."""
    audio_seconds: np.ndarray[Any, Any]
    """(N,) float64; zeros for a head without audio."""
    syllables: np.ndarray[Any, Any]
    """(N,) int64; zeros for a head without text."""
    inputs_sha256: str
    """Over the ids, input hashes and generations of the stored utterances used."""

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def lengths(self) -> Mapping[str, list[int]]:
        """Frames or tokens of each utterance, by stream."""
        return {name: layers[0].sizes for name, layers in self.streams.items()}

    @property
    def costs(self) -> list[float]:
        """Cost of scoring each utterance: its frames and tokens."""
        return [float(sum(sizes)) for sizes in zip(*self.lengths.values(), strict=True)]

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return batches of utterances of similar length, as indices."""
        costs = self.costs
        return plan_batches(costs, max(1.0, *costs) * EVALUATION_BATCH, EVALUATION_BATCH)

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order; their masks are not used, for the audio was encoded before."""
        for request in plan:
            indices = list(request.indices)
            targets = to_device(torch.from_numpy(self.targets[indices]), device)
            yield Batch(indices, targets, partial(self._read, device))

    def _read(self, device: torch.device, indices: Sequence[int]) -> dict[str, Ragged]:
        """Return the packed float32 streams of some utterances: (sum T, D), or (sum T, L, D) of several layers."""
        streams = {}
        for name, layers in self.streams.items():
            frames = [sequences.gather(indices) for sequences in layers]
            values = frames[0] if len(frames) == 1 else torch.stack(frames, dim=1)
            streams[name] = Ragged.from_lengths(
                to_device(values, device).float(), [layers[0].sizes[i] for i in indices]
            )
        return streams


def load_split(
    name: str,
    utterances: Sequence[Utterance],
    streams: Mapping[str, Stream],
    labels: Sequence[str],
    *,
    allow_missing: bool = False,
    verify_inputs: bool = False,
    reporter: Reporter = SILENT,
) -> StoredSplit:
    """Join a split with its streams.

    Raises InputError where a store lacks utterances or has rejected them as they are now (unless `allow_missing`),
    where features were made from another transcript or audio than the manifest names now, or where a label is unknown.
    """
    stored = list(utterances)
    for stream in streams.values():
        stored = [utterance for utterance in stored if utterance.utterance_id in stream]
    unusable = {u.utterance_id for u in utterances} - {u.utterance_id for u in stored}
    if not allow_missing:
        refuse_missing(name, [u for u in utterances if u.utterance_id in unusable], streams, {})
    rejected = refuse_changed(name, stored, streams, verify_inputs, reporter)
    unusable = unusable.union(*rejected.values())
    if not allow_missing:
        refuse_missing(name, [u for u in stored if u.utterance_id in unusable], streams, rejected)
    missing = [utterance for utterance in utterances if utterance.utterance_id in unusable]
    kept = [utterance for utterance in stored if utterance.utterance_id not in unusable]
    if not kept:
        raise InputError(f"{name}: none of the {len(utterances)} utterances has features in every store")
    refuse_training_utterances(kept, streams)
    return StoredSplit(
        name=name,
        utterances=kept,
        missing=missing,
        targets=index_targets(kept, labels),
        streams=_open_sequences(kept, streams),
        audio_seconds=_audio_seconds(kept, streams.get("audio")),
        syllables=_count_syllables(kept) if "text" in streams else np.zeros(len(kept), np.int64),
        inputs_sha256=_inputs_sha256(kept, streams),
    )


def _open_sequences(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> dict[str, list[Sequences]]:
    """Return the sequences of each stream and layer, in the order of the utterances."""
    ids = [utterance.utterance_id for utterance in utterances]
    found = {}
    for name, stream in streams.items():
        found[name] = [Sequences(store, ids) for store in stream.stores]
    return found


def _inputs_sha256(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> str:
    digest = hashlib.sha256()
    for stream in sorted(streams.values(), key=lambda stream: stream.name):
        for utterance in utterances:
            info = stream.utterance_info(utterance.utterance_id)
            digest.update(f"{stream.name}|{utterance.utterance_id}|{info.input_sha256}|{info.generation}\n".encode())
    return digest.hexdigest()


def index_targets(utterances: Sequence[Utterance], labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the index (N,) int64 of each utterance's emotion in the labels; InputError for any other."""
    index = {label: i for i, label in enumerate(labels)}
    unknown = [u for u in utterances if u.emotion not in index]
    if unknown:
        places = ", ".join(f"{u.file}:{u.line} {u.emotion!r}" for u in unknown[:SHOWN])
        hint = lookalike_hint((str(u.emotion) for u in unknown), labels)
        raise InputError(f"emotion must be one of {', '.join(labels)}; {len(unknown)} are not, such as {places}{hint}")
    return np.array([index[str(u.emotion)] for u in utterances], np.int64)


def _audio_seconds(utterances: Sequence[Utterance], stream: Stream | None) -> np.ndarray[Any, Any]:
    if stream is None:
        return np.zeros(len(utterances))
    identity = stream.first.info.identity
    num_samples = [stream.first.utterance_info(u.utterance_id).num_inputs for u in utterances]
    return np.array([identity.duration_s(count) for count in num_samples])


def _count_syllables(utterances: Sequence[Utterance]) -> np.ndarray[Any, Any]:
    return np.array([len(syllables(transcript_of(u))) for u in utterances], np.int64)
