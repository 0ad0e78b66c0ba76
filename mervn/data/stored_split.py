"""StoredSplit: the utterances of a manifest joined with their features in one or more stores."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from features.audio.segment import AudioError
from features.batching import plan_batches
from features.errors import InputError
from features.extraction.encoder_input import InputComparison, transcript_of
from features.manifests.label_names import lookalike_hint
from features.manifests.manifest import Utterance
from features.progress import Say, silent
from features.ragged import Ragged, to_device
from features.store.rejected import REJECTED_FILE, Rejections, read_rejected
from features.text.normalize import syllables
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
        """What scoring each utterance costs: its frames and tokens."""
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
    say: Say = silent,
) -> StoredSplit:
    """Join a split with its streams.

    Raises InputError where a store lacks utterances or has rejected them as they are now (unless `allow_missing`),
    where features were made from another transcript or audio than the manifest names now, or where a label is unknown.
    """
    absent = {u.utterance_id for u in utterances if any(u.utterance_id not in stream for stream in streams.values())}
    _allow(name, [u for u in utterances if u.utterance_id in absent], streams, {}, allow_missing)
    there = [utterance for utterance in utterances if utterance.utterance_id not in absent]
    rejected = _check_current(name, there, streams, verify_inputs, say)
    gone = absent.union(*rejected.values())
    _allow(name, [u for u in there if u.utterance_id in gone], streams, rejected, allow_missing)
    missing = [utterance for utterance in utterances if utterance.utterance_id in gone]
    kept = [utterance for utterance in there if utterance.utterance_id not in gone]
    if not kept:
        raise InputError(f"{name}: none of the {len(utterances)} utterances has features in every store")
    _refuse_seen(kept, streams)
    return StoredSplit(
        name=name,
        utterances=kept,
        missing=missing,
        targets=index_targets(kept, labels),
        streams={
            name: [Sequences(store, [u.utterance_id for u in kept]) for store in stream.stores]
            for name, stream in streams.items()
        },
        audio_seconds=_audio_seconds(kept, streams.get("audio")),
        syllables=np.array([len(syllables(transcript_of(u))) if "text" in streams else 0 for u in kept], np.int64),
        inputs_sha256=_inputs_sha256(kept, streams),
    )


def _refuse_seen(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> None:
    for stream in streams.values():
        if stream.tuned is not None:
            stream.tuned.refuse_training_utterances(
                (u, stream.utterance_info(u.utterance_id).input_sha256) for u in utterances
            )


def _inputs_sha256(utterances: Sequence[Utterance], streams: Mapping[str, Stream]) -> str:
    digest = hashlib.sha256()
    for stream in sorted(streams.values(), key=lambda stream: stream.name):
        for utterance in utterances:
            row = stream.utterance_info(utterance.utterance_id)
            digest.update(f"{stream.name}|{utterance.utterance_id}|{row.input_sha256}|{row.generation}\n".encode())
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


def _allow(
    name: str,
    missing: Sequence[Utterance],
    streams: Mapping[str, Stream],
    rejected: Mapping[str, Collection[str]],
    allow_missing: bool,
) -> None:
    """Raise InputError where utterances are missing, unless they may be."""
    if missing and not allow_missing:
        raise _missing_error(name, missing, streams, rejected)


def _missing_error(
    name: str, missing: Sequence[Utterance], streams: Mapping[str, Stream], refused: Mapping[str, Collection[str]]
) -> InputError:
    """Return the error of missing utterances; `refused` are by stream those whose row is of an input of before."""
    lines = [f"{name}: {len(missing)} utterances have no features in every store:"]
    for stream in streams.values():
        extractable, listed = False, set()
        for store in stream.stores:
            rejected = read_rejected(store.path)
            stale = rejected.keys() & refused.get(stream.name, ())
            lacking = [u for u in missing if u.utterance_id not in store or u.utterance_id in stale]
            extractable = extractable or any(u.utterance_id not in rejected for u in lacking)
            listed |= {store.path / REJECTED_FILE} if any(u.utterance_id in rejected for u in lacking) else set()
            for utterance in lacking[:SHOWN]:
                entry = rejected.get(utterance.utterance_id)
                why = f"rejected: {entry.reason}" if entry else "not extracted"
                lines.append(f"  {utterance.file}:{utterance.line} {utterance.utterance_id!r} in {store.path}: {why}")
            if len(lacking) > SHOWN:
                lines.append(f"  and {len(lacking) - SHOWN} more of {stream.name}")
        lines += [f"  {path} says why utterances were rejected: repair their input first" for path in sorted(listed)]
        if extractable:  # those that were rejected would be rejected again
            lines.append(f"  extract what is not extracted:\n  {stream.extract_command()}")
    lines.append("or train and score without them, counted in every result: --allow-missing")
    return InputError("\n".join(lines))


def _check_current(
    name: str, utterances: Sequence[Utterance], streams: Mapping[str, Stream], decode: bool, say: Say
) -> dict[str, set[str]]:
    """Raise InputError where features were made from something else than the manifest names now.

    Return by stream the utterances whose input was changed to one that a store has rejected: another extraction would
    reject it again.
    """
    refused: dict[str, set[str]] = {}
    for stream in streams.values():
        stale, unusable = _find_stale(utterances, stream, decode, say)
        refused[stream.name] = _rejected_again(stale, unusable, stream)
        stale = [utterance for utterance in stale if utterance.utterance_id not in refused[stream.name]]
        if stale:
            places = ", ".join(f"{u.file}:{u.line} {u.utterance_id!r}" for u in stale[:SHOWN])
            more = f" and {len(stale) - SHOWN} more" if len(stale) > SHOWN else ""
            what = "transcript" if stream.modality == "text" else "audio or start, end, channel"
            raise InputError(
                f"{name}: the {stream.modality} features of {len(stale)} utterances in {stream.first.path} were made "
                f"from another {what}: {places}{more}. Extract them again:\n  {stream.extract_command('--update')}"
            )
    return refused


def _find_stale(
    utterances: Sequence[Utterance], stream: Stream, decode: bool, say: Say
) -> tuple[list[Utterance], set[str]]:
    """Return the utterances whose input has changed since, and the ids of those whose audio cannot be used now."""
    stale, unusable, moved = [], set[str](), dict[str, str]()
    comparison = InputComparison(stream.modality, say, offline=True, decode=decode)
    for utterance in utterances:
        try:
            found = comparison.compare(utterance, stream.utterance_info(utterance.utterance_id))
        except AudioError:
            found = "changed"
            unusable.add(utterance.utterance_id)
        if found == "changed":
            stale.append(utterance)
        elif found == "moved":
            moved[utterance.utterance_id] = comparison.source(utterance).json_text()
    for store in stream.stores if moved else ():
        store.remember_sources(moved)
    return stale, unusable


def _rejected_again(stale: Sequence[Utterance], unusable: Collection[str], stream: Stream) -> set[str]:
    """Return the ids of stale utterances that a store has rejected as they are now."""
    rejections = [Rejections(store.path) for store in stream.stores] if stale else []
    again = set()
    for utterance in stale:
        settled = any(each.settled(utterance, stream.modality) is not None for each in rejections)
        listed = any(utterance.utterance_id in each for each in rejections)
        if settled or (listed and utterance.utterance_id in unusable):
            again.add(utterance.utterance_id)
    return again
