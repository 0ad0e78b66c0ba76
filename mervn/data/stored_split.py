"""StoredSplit: the utterances of one split with their features from one or more stores."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch

from features.batching import plan_batches
from features.errors import InputError
from features.extraction.encoder_input import transcript_of
from features.manifests.manifest import Utterance
from features.manifests.utterances import emotion_codes, iterate_ids, select
from features.progress import SILENT, Reporter
from features.store.stored_inputs import StoredInputs
from features.text.normalize import syllables
from mervn.data.feature_checks import refuse_changed, refuse_missing, refuse_training_utterances
from mervn.data.labels import describe_emotions
from mervn.data.split import Batch, BatchRequest, Lengths, hash_content
from mervn.data.stored_batches import read_batches
from mervn.data.stored_sequences import Sequences
from mervn.data.streams import Stream, modality_of

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
    content_sha256: Mapping[str, str] = field(default_factory=dict)
    """Result of `hash_content` by modality that is read."""

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

        Masks are ignored, because the audio is already encoded.
        """
        return read_batches(self.streams, self.targets, [request.indices for request in plan], device)


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
    is_used = _are_stored(utterances, streams)
    if not allow_missing:
        refuse_missing(name, select(utterances, ~is_used), streams, {})
    stored = select(utterances, is_used)
    inputs = _read_inputs(stored, streams)
    # Features of a changed input are an error, unless the store has rejected the new input.
    rejected = refuse_changed(name, stored, streams, verify_inputs, reporter)
    is_kept = _are_not(set().union(*rejected.values()), stored)
    is_used[is_used] = is_kept
    if not allow_missing:
        refuse_missing(name, select(stored, ~is_kept), streams, rejected)
    kept = select(stored, is_kept)
    if not kept:
        raise InputError(f"{name}: none of the {len(utterances)} utterances has features in every store")
    inputs = {stream: _select_inputs(found, is_kept) for stream, found in inputs.items()}
    refuse_training_utterances(kept, streams, inputs)
    return _join(name, kept, select(utterances, ~is_used), streams, inputs, labels)


def _join(
    name: str,
    kept: Sequence[Utterance],
    missing: Sequence[Utterance],
    streams: Mapping[str, Stream],
    inputs: Mapping[str, Sequence[StoredInputs]],
    labels: Sequence[str],
) -> StoredSplit:
    """Return the split of the utterances that every store has; `inputs` are their inputs by stream."""
    return StoredSplit(
        name=name,
        utterances=kept,
        missing=missing,
        targets=index_targets(kept, labels),
        streams=_open_sequences(streams, inputs),
        audio_seconds=_audio_seconds(streams, inputs, len(kept)),
        syllables=_count_syllables(kept) if "text" in streams else np.zeros(len(kept), np.int64),
        inputs_sha256=_inputs_sha256(kept, inputs),
        content_sha256={
            modality_of(name): hash_content(kept, map(bytes.decode, found[0].input_sha256.tolist()))
            for name, found in inputs.items()
        },
    )


def _are_stored(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> np.ndarray[Any, Any]:
    """Tell, for each utterance (N,), whether every store has it."""
    ids, found = list(iterate_ids(utterances)), np.ones(len(utterances), bool)
    for store in chain.from_iterable(stream.stores for stream in streams.values()):
        found &= store.has(ids)
    return found


def _select_inputs(inputs: Sequence[StoredInputs], chosen: np.ndarray[Any, Any]) -> list[StoredInputs]:
    """Return the inputs of the chosen utterances, by store."""
    return [one.select(chosen) for one in inputs]


def _are_not(ids: Collection[str], utterances: Sequence[Utterance]) -> np.ndarray[Any, Any]:
    """Tell, for each utterance (N,), whether its id is not among these."""
    return np.fromiter((each not in ids for each in iterate_ids(utterances)), bool, len(utterances))


def _read_inputs(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> dict[str, list[StoredInputs]]:
    """Return, by stream, what each of its stores records about the utterances."""
    ids = list(iterate_ids(utterances))
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
        for i, utterance_id in enumerate(iterate_ids(utterances)):
            sha256, generation = first.input_sha256[i].decode(), first.generations[i]
            digest.update(f"{name}|{utterance_id}|{sha256}|{generation}\n".encode())
    return digest.hexdigest()


def index_targets(utterances: Sequence[Utterance], labels: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return the index (N,) int64 of each utterance's emotion in the labels.

    InputError for an emotion that is not one of the labels.
    """
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    codes, emotions = emotion_codes(utterances)
    by_code = np.array([index.get(emotion, -1) for emotion in emotions], np.int64)
    targets: np.ndarray[Any, Any] = by_code[codes]
    if (targets < 0).any():
        unknown = select(utterances, targets < 0)
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
