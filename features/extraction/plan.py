"""What an extraction will do, found out before it starts: lengths, batches, what is kept, missing or bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.audio.segment import AudioError, inspect_segment
from features.batching import padding_fraction, plan_batches
from features.encoders.base import Encoder
from features.errors import InputError
from features.extraction.encoder_input import SAMPLE_RATE, Freshness, InputComparison, transcript_of
from features.manifests.manifest import Utterance
from features.progress import Say, silent
from features.store.identity import StoreInfo, find_identity
from features.store.reader import FeatureStore
from features.store.rejected import Rejection, Rejections
from features.store.writer import PART_BYTES, PART_UTTERANCES
from features.text.normalize import TokenCounts

MAX_BATCH = 256
CHANGED_SHOWN = 5
UNITS = 32
"""Into at least so many units the work is cut, where there are as many batches: several processes share it evenly."""


@dataclass(frozen=True)
class Target:
    """One layer's store and what it lacks."""

    identity: Mapping[str, Any]
    store: StoreInfo | None
    """The store of this identity if it is there already."""
    missing: set[int]
    changed: set[int]
    """Committed, but from other content."""
    generation: int
    """The generation that rows written now belong to."""
    settled: Mapping[int, Rejection]
    """Not committed, or from other content, for an earlier extraction rejected this very input."""

    @property
    def pending(self) -> set[int]:
        """Everything to write."""
        return self.missing | self.changed

    def is_uncommitted(self, index: int, utterance: Utterance, store: FeatureStore) -> bool:
        """Tell whether an utterance was to be written and nobody has committed it since."""
        name = utterance.utterance_id
        if index in self.changed:  # its part may have been set aside meanwhile
            return name not in store or store.generation(name) < self.generation
        return index in self.missing and name not in store

    def lacks(self, index: int, utterance: Utterance, store: FeatureStore, rejections: Rejections) -> bool:
        """Tell whether an utterance was to be written and nobody has committed or rejected it since."""
        modality = str(self.identity["modality"])
        return self.is_uncommitted(index, utterance, store) and rejections.settled(utterance, modality) is None


@dataclass(frozen=True)
class Plan:
    """The work of one extraction; `units` hold indices into `utterances` and never depend on what is committed.

    A unit is what one process claims and commits as a part: a list of batches. A batch is computed whole or not at all.
    """

    modality: str
    utterances: list[Utterance]
    targets: list[Target]
    """One for each layer."""
    sizes: list[float]
    """Seconds of audio or tokens; 0 for rejected utterances."""
    costs: list[float]
    """Seconds or tokens that are computed, with the padding of an utterance's own windows."""
    rows: list[int]
    """Feature rows each utterance will have."""
    frame_bytes: int
    units: list[list[list[int]]]
    rejected: dict[int, Rejection]
    end_clipped: int
    truncated: int
    """How many transcripts are longer than the encoder takes."""
    token_counts: TokenCounts | None
    """What the tokenizer made of the transcripts; None for audio."""
    budget: float
    """Padded cost of a batch."""

    @property
    def pending(self) -> set[int]:
        """Everything to encode, for any layer."""
        return set().union(*(target.pending for target in self.targets))

    @property
    def batches(self) -> list[list[int]]:
        """The batches of all units."""
        return [batch for unit in self.units for batch in unit]

    def unit_name(self, unit: Sequence[Sequence[int]]) -> str:
        """Return the name of a unit, which follows from its utterances."""
        ids = "\n".join(self.utterances[i].utterance_id for batch in unit for i in batch)
        return hashlib.sha256(ids.encode()).hexdigest()[:16]

    def num_kept(self, target: Target) -> int:
        """How many utterances of a store need no work."""
        return len(self.utterances) - len(target.pending) - self.num_rejected(target)

    def num_rejected(self, target: Target) -> int:
        """How many utterances of a store are rejected, now or settled before."""
        return len(self.rejected.keys() | target.settled.keys())

    def with_budget(self, budget: float) -> Plan:
        """Return the same work in batches of another budget."""
        if budget == self.budget:
            return self
        sizes = [rows * self.frame_bytes for rows in self.rows]
        units = plan_units(self.costs, sizes, self.rejected.keys(), budget)
        return replace(self, budget=budget, units=units)

    @property
    def hours(self) -> float:
        """Hours of audio, pending or not."""
        return sum(self.sizes) / 3600

    @property
    def num_bytes(self) -> int:
        """Exact bytes of the features to write."""
        return sum(self.rows[i] for target in self.targets for i in target.pending) * self.frame_bytes

    @property
    def gb_per_hour(self) -> float | None:
        """GB of one layer's features an hour of audio."""
        return round(sum(self.rows) * self.frame_bytes / 1e9 / self.hours, 4) if self.hours else None

    @property
    def padding(self) -> float:
        """Fraction of padding in what is computed: of windows, and of batches as if all were padded."""
        return round(padding_fraction(self.sizes, self.batches, self.costs), 4)


def make_plan(
    utterances: list[Utterance],
    encoder: Encoder,
    identities: Sequence[Mapping[str, Any]],
    features_dir: Path,
    budget: float,
    update: bool,
    *,
    retry_rejected: bool = False,
    verify_inputs: bool = False,
    say: Say = silent,
) -> Plan:
    """Inspect every utterance and compare it with what is committed in each identity's store; nothing is written.

    A batch costs at most `budget` padded seconds or tokens. An input that was rejected before is settled, unless
    `retry_rejected`. With `verify_inputs` the audio of every committed utterance is decoded and compared. Raises
    InputError where another content stands under a committed id and `update` is false.
    """
    measured = _Measured(utterances, encoder)
    modality, comparison = encoder.modality, InputComparison(encoder.modality, say, decode=verify_inputs)
    targets = [
        _make_target(measured, identity, find_identity(features_dir, identity), update, comparison, retry_rejected)
        for identity in identities
    ]
    frame_bytes = encoder.dim * (2 if identities[0]["store_dtype"] == "fp16" else 4)
    return Plan(
        modality=modality,
        utterances=utterances,
        targets=targets,
        sizes=measured.sizes,
        costs=measured.costs,
        rows=measured.rows,
        frame_bytes=frame_bytes,
        units=plan_units(measured.costs, [rows * frame_bytes for rows in measured.rows], measured.rejected, budget),
        rejected=measured.rejected,
        end_clipped=measured.end_clipped,
        truncated=measured.truncated,
        token_counts=encoder.count_tokens(map(transcript_of, utterances)) if modality == "text" else None,
        budget=budget,
    )


def plan_units(
    costs: Sequence[float], sizes: Sequence[int], rejected: Collection[int], budget: float
) -> list[list[list[int]]]:
    """Return the units of the utterances that are not rejected, in batches of at most `budget`."""
    good = [i for i in range(len(costs)) if i not in rejected]
    planned = plan_batches([costs[i] for i in good], budget, MAX_BATCH)
    return cut_units([[good[i] for i in batch] for batch in planned], costs, sizes)


def cut_units(batches: Sequence[list[int]], costs: Sequence[float], sizes: Sequence[int]) -> list[list[list[int]]]:
    """Cut batches, in their order, into units of at most a part's utterances and bytes and 1 / UNITS of the cost."""
    share = sum(costs) / UNITS
    units: list[list[list[int]]] = []
    count, size, cost = 0, 0, 0.0
    for batch in batches:
        more = sum(sizes[i] for i in batch)
        if not units or count + len(batch) > PART_UTTERANCES or size + more > PART_BYTES or cost >= share:
            units.append([])
            count, size, cost = 0, 0, 0.0
        units[-1].append(batch)
        count, size, cost = count + len(batch), size + more, cost + sum(costs[i] for i in batch)
    return units


def _make_target(
    measured: _Measured,
    identity: Mapping[str, Any],
    info: StoreInfo | None,
    update: bool,
    comparison: InputComparison,
    retry_rejected: bool,
) -> Target:
    store = FeatureStore(info.path) if info else None
    rejections = Rejections(info.path) if info is not None and not retry_rejected else None
    missing, changed, moved = set[int](), set[int](), dict[str, str]()
    settled: dict[int, Rejection] = {}
    for i, utterance in enumerate(measured.utterances):
        if i in measured.rejected:
            continue
        try:
            found = _find(utterance, store, comparison)
        except AudioError as error:
            measured.rejected[i] = Rejection(utterance, error.reason, str(error))
            continue
        if found == "moved":
            moved[utterance.utterance_id] = json.dumps(comparison.source(utterance))
        if found in ("same", "moved"):
            continue
        rejection = rejections.settled(utterance, measured.modality) if rejections else None
        if rejection is not None:
            settled[i] = rejection
        else:
            (missing if found is None else changed).add(i)
    if store is not None and moved:
        store.remember_sources(moved)
    if changed and not update:
        raise _changed_error([measured.utterances[i] for i in sorted(changed)], store)
    newest = -1
    if store is not None and changed:
        newest = max(store.generation(measured.utterances[i].utterance_id) for i in changed)
    return Target(identity, info, missing, changed, newest + 1, settled)


def _find(utterance: Utterance, store: FeatureStore | None, comparison: InputComparison) -> Freshness | None:
    """Compare an utterance with what is committed; None if nothing is."""
    if store is None or utterance.utterance_id not in store:
        return None
    return comparison.compare(utterance, store.utterance_info(utterance.utterance_id))


class _Measured:
    """Cost and number of feature rows of every utterance, from file headers and transcripts alone."""

    def __init__(self, utterances: Sequence[Utterance], encoder: Encoder) -> None:
        self.sizes: list[float] = []
        self.costs: list[float] = []
        self.rows: list[int] = []
        self.rejected: dict[int, Rejection] = {}
        self.end_clipped = 0
        self.truncated = 0
        self.utterances, self.modality = utterances, encoder.modality
        for i, utterance in enumerate(utterances):
            size, unit = 0, 1
            try:
                if encoder.modality == "text":
                    transcript = transcript_of(utterance)
                    size = encoder.prepare(transcript).shape[0]
                    self.truncated += encoder.is_truncated(transcript)
                else:
                    info = inspect_segment(utterance.audio_path, utterance.start, utterance.end, utterance.channel)
                    self.end_clipped += info.end_clipped
                    size = info.num_samples
                    unit = SAMPLE_RATE
            except AudioError as error:
                self.rejected[i] = Rejection(utterance, error.reason, str(error))
            self.sizes.append(size / unit)
            self.costs.append(encoder.get_padded_length(size) / unit)
            self.rows.append(int(encoder.get_feat_lengths(size)) if size else 0)


def _changed_error(changed: list[Utterance], store: FeatureStore | None) -> InputError:
    names = ", ".join(f"{u.utterance_id!r} ({u.file}:{u.line})" for u in changed[:CHANGED_SHOWN])
    more = f" and {len(changed) - CHANGED_SHOWN} more" if len(changed) > CHANGED_SHOWN else ""
    return InputError(
        f"{len(changed)} utterances have another content than the one committed under the same id in "
        f"{store.path if store else 'the store'}: {names}{more}. If this is another corpus, give it a --features-dir "
        "of its own; if audio or transcripts were changed on purpose, run the same command with --update"
    )
