"""StoredSplit: the utterances of one split with their features from one or more stores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.batching import plan_batches
from features.errors import InputError
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.ragged import Ragged, to_device
from features.store.stored_inputs import StoredInputs
from features.text.normalize import syllables
from mervn.data.feature_checks import refuse_changed, refuse_missing, refuse_training_utterances
from mervn.data.labels import describe_emotions
from mervn.data.split import Batch, BatchRequest, Lengths
from mervn.data.stored_sequences import HostBuffer, Sequences, gather_all, is_streamed, read_ahead
from mervn.data.streams import Stream

EVALUATION_BATCH = 64
"""Maximum number of utterances per batch when a split is scored."""


@dataclass(frozen=True)
class StoredSplit:
    """The utterances of one split that have features, in the order of the manifest.

    Implements `Split`.
    """

    name: str
    utterances: Sequence[Utterance]
    missing: Sequence[Utterance]
    """Utterances that a store lacks, or whose current input it rejected.

    They are always counted, and never trained on or scored."""
    targets: np.ndarray[Any, Any]
    """(N,) int64: indices into the labels."""
    streams: Mapping[str, list[Sequences]]
    """By stream, for each of its layers, the N sequences (T, D)."""
    audio_seconds: np.ndarray[Any, Any]
    """(N,) float64; zeros if no stream is audio."""
    syllables: np.ndarray[Any, Any]
    """(N,) int64; zeros if no stream is text."""
    inputs_sha256: str
    """Hash over the ids, input hashes and generations of the N utterances."""

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def lengths(self) -> Mapping[str, Lengths]:
        """Frames or tokens of each utterance, by stream."""
        return {name: layers[0].sizes for name, layers in self.streams.items()}

    @property
    def costs(self) -> list[float]:
        """Cost of scoring each utterance: the number of its frames and tokens."""
        costs: list[float] = np.stack([layers[0].sizes for layers in self.streams.values()]).sum(0, np.float64).tolist()
        return costs

    def evaluation_batches(self, device: torch.device) -> list[list[int]]:
        """Return batches of utterances of similar length, as indices."""
        costs = self.costs
        return plan_batches(costs, max(1.0, *costs) * EVALUATION_BATCH, EVALUATION_BATCH)

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan in its order.

        Masks are ignored, because the audio is already encoded. Targets and lengths of the whole
        plan go to the device at once, so that a batch of resident features needs no transfer.
        """
        indices = [list(request.indices) for request in plan]
        order = list(chain.from_iterable(indices))
        columns = [self.targets[order]]
        for sizes in self.lengths.values():
            columns.append(np.asarray(sizes, np.int64)[order])
        on_device = to_device(torch.from_numpy(np.stack(columns)), device)  # (1 + streams, sum B)
        columns_of = on_device.split(list(map(len, indices)), dim=1)
        every = list(chain.from_iterable(self.streams.values()))
        buffers = read_ahead(every, indices, device) if is_streamed(every, device) else repeat(None)
        for batch, (targets, *lengths), buffer in zip(indices, columns_of, buffers, strict=False):  # repeat is endless
            yield Batch(batch, targets, partial(self._read, device, batch, lengths, buffer))

    def _read(
        self,
        device: torch.device,
        batch: list[int],
        batch_lengths: Sequence[Tensor],
        buffer: HostBuffer | None,
        indices: Sequence[int],
    ) -> dict[str, Ragged]:
        """Return float32 streams of utterances: (sum T, D), or (sum T, L, D) for L > 1 layers.

        `batch_lengths` are the lengths (B,) of each stream of the whole batch, on the device, and
        `buffer` its frames, if they were read ahead.
        """
        is_whole = list(indices) == batch
        if buffer is not None and is_whole:
            frames = iter(buffer.floats(device))
        else:
            frames = iter(gather_all(list(chain.from_iterable(self.streams.values())), indices, device))
        streams = {}
        for (name, layers), lengths in zip(self.streams.items(), batch_lengths, strict=True):
            parts = list(islice(frames, len(layers)))  # L tensors (sum T, D)
            values = parts[0] if len(parts) == 1 else torch.stack(parts, dim=1)
            sizes = layers[0].sizes_of(indices)
            if is_whole:
                streams[name] = Ragged.from_device_lengths(values, lengths, sizes)
            else:  # a part of a batch that does not fit into memory
                streams[name] = Ragged.from_lengths(values, sizes)
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
    """Join the utterances of a split with their stored features.

    Raises InputError if a store lacks utterances or has rejected their current input (unless
    `allow_missing`), if features were extracted from a transcript or audio that has changed since,
    or if a label is unknown.
    """
    is_stored = _are_stored(utterances, streams)
    if not allow_missing:
        refuse_missing(name, _select(utterances, ~is_stored), streams, {})
    stored = _select(utterances, is_stored)
    inputs = _read_inputs(stored, streams)
    # Features of a changed input are an error, unless the store has rejected the new input.
    ids_by_stream = refuse_changed(name, stored, streams, verify_inputs, reporter)
    rejected = set[str]().union(*ids_by_stream.values())
    is_kept = np.array([utterance.utterance_id not in rejected for utterance in stored], bool)
    if not allow_missing:
        refuse_missing(name, _select(stored, ~is_kept), streams, ids_by_stream)
    kept = _select(stored, is_kept)
    if not kept:
        raise InputError(f"{name}: none of the {len(utterances)} utterances has features in every store")
    inputs = {stream: _select_inputs(found, is_kept) for stream, found in inputs.items()}
    refuse_training_utterances(kept, streams, inputs)
    is_missing = ~is_stored
    is_missing[is_stored] = ~is_kept
    return StoredSplit(
        name=name,
        utterances=kept,
        missing=_select(utterances, is_missing),
        targets=index_targets(kept, labels),
        streams=_open_sequences(streams, inputs),
        audio_seconds=_audio_seconds(streams, inputs, len(kept)),
        syllables=_count_syllables(kept) if "text" in streams else np.zeros(len(kept), np.int64),
        inputs_sha256=_inputs_sha256(kept, inputs),
    )


def _are_stored(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> np.ndarray[Any, Any]:
    """Tell, for each utterance (N,), whether every store has it."""
    found = np.ones(len(utterances), bool)
    for stream in streams.values():
        found &= np.fromiter((utterance.utterance_id in stream for utterance in utterances), bool, len(utterances))
    return found


def _select(utterances: Sequence[Utterance], chosen: np.ndarray[Any, Any]) -> Sequence[Utterance]:
    """Return the chosen utterances, in their order; the same sequence if all are chosen."""
    if chosen.all():
        return utterances
    return [utterances[i] for i in np.flatnonzero(chosen).tolist()]


def _select_inputs(inputs: Sequence[StoredInputs], chosen: np.ndarray[Any, Any]) -> list[StoredInputs]:
    """Return the inputs of the chosen utterances, by store."""
    return [one.select(chosen) for one in inputs]


def _read_inputs(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> dict[str, list[StoredInputs]]:
    """Return, by stream, what each of its stores records about the utterances."""
    ids = [utterance.utterance_id for utterance in utterances]
    return {name: stream.inputs(ids) for name, stream in streams.items()}


def _open_sequences(
    streams: Mapping[str, Stream], inputs: Mapping[str, Sequence[StoredInputs]]
) -> dict[str, list[Sequences]]:
    """Return the sequences of each stream and layer, in the order of the utterances."""
    sequences = {}
    for name, stream in streams.items():
        sequences[name] = list(map(Sequences, stream.stores, inputs[name]))
    return sequences


def _inputs_sha256(utterances: Sequence[Utterance], inputs: Mapping[str, Sequence[StoredInputs]]) -> str:
    """Hash the id, input hash and generation of each utterance in each stream."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        # the generation changes when the features are extracted again
        first = inputs[name][0]
        for i, utterance in enumerate(utterances):
            sha256, generation = first.input_sha256[i].decode(), first.generations[i]
            digest.update(f"{name}|{utterance.utterance_id}|{sha256}|{generation}\n".encode())
    return digest.hexdigest()


def index_targets(utterances: Sequence[Utterance], labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the index (N,) int64 of each utterance's emotion in the labels.

    InputError for an emotion that is not one of the labels.
    """
    index = {label: i for i, label in enumerate(labels)}
    unknown: list[Utterance] = []
    targets = np.zeros(len(utterances), np.int64)
    for i, utterance in enumerate(utterances):
        if utterance.emotion in index:
            targets[i] = index[utterance.emotion]
        else:
            unknown.append(utterance)
    if unknown:
        raise InputError(f"emotion must be one of {', '.join(labels)}, but {describe_emotions(unknown, labels)}")
    return targets


def _audio_seconds(
    streams: Mapping[str, Stream], inputs: Mapping[str, Sequence[StoredInputs]], count: int
) -> np.ndarray[Any, Any]:
    """Return durations (N,) float64 in seconds from the audio store; zeros if there is none."""
    if "audio" not in streams:
        return np.zeros(count)
    identity, num_samples = streams["audio"].first.info.identity, inputs["audio"][0].num_inputs
    return np.array([identity.duration_s(number) for number in num_samples.tolist()], np.float64)


def _count_syllables(utterances: Sequence[Utterance]) -> np.ndarray[Any, Any]:
    """Return the number of syllables (N,) int64 of each transcript."""
    return np.fromiter((len(syllables(transcript_of(u))) for u in utterances), np.int64, len(utterances))
