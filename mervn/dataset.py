"""A split for training or evaluation: manifest rows joined with the sequences of one or more stores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.audio import AudioError
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.inputs import is_current
from features.manifest import Utterance
from features.ragged import Ragged
from features.store.index import features_folder, select_store
from features.store.reader import FeatureStore
from features.store.writer import read_rejected
from features.text import syllables
from mervn.config import StoreOptions

SHOWN = 5


@dataclass(frozen=True)
class Split:
    """The utterances of one split that have features, in the order of the manifest."""

    name: str
    utterances: list[Utterance]
    missing: list[Utterance]
    """Utterances of the manifest that a store lacks; never trained on or scored, always counted."""
    targets: np.ndarray[Any, Any]
    """(N,) int64, index into the labels."""
    streams: Mapping[str, list[np.ndarray[Any, Any]]]
    """For each modality the N sequences (T, D), mapped from disk."""
    audio_seconds: np.ndarray[Any, Any]
    """(N,) float64; zeros for a head without audio."""
    syllables: np.ndarray[Any, Any]
    """(N,) int64; zeros for a head without text."""
    features_sha256: str
    """Over ids, input hashes and generations of the rows used."""

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Ragged]:
        """Return the packed float32 streams of some utterances."""
        streams = {}
        for name, sequences in self.streams.items():
            chosen = [sequences[i] for i in indices]
            values = torch.from_numpy(np.concatenate(chosen)).to(device).float()
            streams[name] = Ragged.from_lengths(values, [sequence.shape[0] for sequence in chosen])
        return streams

    def batch_targets(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """Return the targets (B,) int64 of some utterances."""
        return torch.from_numpy(self.targets[list(indices)]).to(device)

    def count_empty(self) -> dict[str, int]:
        """Return how many sequences of each modality have no rows."""
        return {name: sum(not len(sequence) for sequence in rows) for name, rows in self.streams.items()}


def open_stores(options: StoreOptions, data: Path, modalities: Sequence[str]) -> dict[str, FeatureStore]:
    """Open the store of each modality that the options mean; InputError says what is wrong with any of them."""
    folder = features_folder(options.features_dir, data)
    chosen = {"audio": (options.audio_encoder, options.audio_store), "text": (options.text_encoder, options.text_store)}
    selectors = {name: parse_selector(text, name) for name, (text, _) in chosen.items() if text is not None}
    stores, faults = {}, []
    for modality in modalities:
        try:
            info = select_store(folder, modality, selectors.get(modality), chosen[modality][1], data)
            stores[modality] = FeatureStore(info.path)
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return stores


def load_split(
    name: str,
    utterances: Sequence[Utterance],
    stores: Mapping[str, FeatureStore],
    labels: Sequence[str],
    *,
    allow_missing: bool = False,
    verify_inputs: bool = False,
) -> Split:
    """Join a split with its stores.

    Raises InputError where a store lacks utterances (unless `allow_missing`), where features were made from another
    transcript or audio than the manifest names now, or where a label is unknown.
    """
    missing = [u for u in utterances if any(u.utterance_id not in store for store in stores.values())]
    if missing and not allow_missing:
        raise _missing_error(name, missing, stores)
    gone = {utterance.utterance_id for utterance in missing}
    kept = [utterance for utterance in utterances if utterance.utterance_id not in gone]
    if not kept:
        raise InputError(f"{name}: none of the {len(utterances)} utterances has features in every store")
    _check_current(name, kept, stores, verify_inputs)
    digest = hashlib.sha256()
    for modality, store in sorted(stores.items()):
        for utterance in kept:
            row = store.row_info(utterance.utterance_id)
            digest.update(f"{modality}|{utterance.utterance_id}|{row.input_sha256}|{row.generation}\n".encode())
    return Split(
        name=name,
        utterances=kept,
        missing=missing,
        targets=_targets(kept, labels),
        streams={modality: [store[u.utterance_id] for u in kept] for modality, store in stores.items()},
        audio_seconds=_audio_seconds(kept, stores.get("audio")),
        syllables=np.array([len(syllables(u.transcript or "")) if "text" in stores else 0 for u in kept], np.int64),
        features_sha256=digest.hexdigest(),
    )


def _targets(utterances: Sequence[Utterance], labels: Sequence[str]) -> np.ndarray[Any, Any]:
    index = {label: i for i, label in enumerate(labels)}
    unknown = [u for u in utterances if u.emotion not in index]
    if unknown:
        places = ", ".join(f"{u.file}:{u.line} {u.emotion!r}" for u in unknown[:SHOWN])
        raise InputError(f"emotion must be one of {', '.join(labels)}; {len(unknown)} are not, such as {places}")
    return np.array([index[str(u.emotion)] for u in utterances], np.int64)


def _audio_seconds(utterances: Sequence[Utterance], store: FeatureStore | None) -> np.ndarray[Any, Any]:
    if store is None:
        return np.zeros(len(utterances))
    rate = store.info.identity["sample_rate"]
    return np.array([store.row_info(u.utterance_id).num_inputs / rate for u in utterances])


def _missing_error(name: str, missing: Sequence[Utterance], stores: Mapping[str, FeatureStore]) -> InputError:
    lines = [f"{name}: {len(missing)} utterances have no features in every store:"]
    for modality, store in stores.items():
        rejected = read_rejected(store.path)
        lacking = [u for u in missing if u.utterance_id not in store]
        for utterance in lacking[:SHOWN]:
            entry = rejected.get(utterance.utterance_id)
            why = f"rejected: {entry['reason']}" if entry else "not extracted"
            lines.append(f"  {utterance.file}:{utterance.line} {utterance.utterance_id!r} in {store.path}: {why}")
        if len(lacking) > SHOWN:
            lines.append(f"  and {len(lacking) - SHOWN} more of {modality}")
        lines += [f"  extract them: mervn extract --{modality}-encoder {store.info.provenance['selector']}"] * bool(
            lacking
        )
    lines.append("or go on without them, counted in every result: --allow-missing")
    return InputError("\n".join(lines))


def _check_current(
    name: str, utterances: Sequence[Utterance], stores: Mapping[str, FeatureStore], decode: bool
) -> None:
    """Raise InputError where features were made from something else than the manifest names now."""
    for modality, store in stores.items():
        stale = []
        for utterance in utterances:
            try:
                row = store.row_info(utterance.utterance_id)
                if not is_current(utterance, row, modality, offline=True, decode=decode and modality == "audio"):
                    stale.append(utterance)
            except AudioError:
                stale.append(utterance)
        if stale:
            places = ", ".join(f"{u.file}:{u.line} {u.utterance_id!r}" for u in stale[:SHOWN])
            more = f" and {len(stale) - SHOWN} more" if len(stale) > SHOWN else ""
            raise InputError(
                f"{name}: the {modality} features of {len(stale)} utterances in {store.path} were made from another "
                f"{'transcript' if modality == 'text' else 'audio or start, end, channel'}: {places}{more}. Extract "
                f"them again: mervn extract --{modality}-encoder {store.info.provenance['selector']} --update"
            )
