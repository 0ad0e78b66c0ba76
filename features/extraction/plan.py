"""Plan of an extraction: units of work; missing, changed and rejected utterances."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from features.audio.segment import AudioError
from features.batching import padding_fraction, plan_batches
from features.encoders.base import Encoder
from features.errors import InputError, name_some
from features.extraction.encoder_input import Freshness, InputComparison, transcript_of
from features.extraction.measure import Measurements, measure
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter
from features.store.identity import StoreIdentity, StoreInfo, find_identity
from features.store.reader import FeatureStore
from features.store.rejected import Rejection, Rejections
from features.store.writer import PART_BYTES, PART_UTTERANCES
from features.text.normalize import TokenCounts

MAX_BATCH = 256
"""Maximum number of utterances per batch."""
UNITS = 32
"""Minimum number of units, if there are as many batches: several processes then share the work
evenly."""


@dataclass(frozen=True)
class Target:
    """Store of one layer, and the utterances that it lacks, as indices into `Plan.utterances`."""

    identity: StoreIdentity
    store: StoreInfo | None
    """None if the store does not exist yet."""
    missing: set[int]
    changed: set[int]
    """Committed, but with another input."""
    generation: int
    """Generation of the features that this extraction writes."""
    settled: Mapping[int, Rejection]
    """Missing or changed, but an earlier extraction has rejected the same input."""

    @property
    def pending(self) -> set[int]:
        """All utterances to write."""
        return self.missing | self.changed

    def is_uncommitted(self, index: int, utterance: Utterance, store: FeatureStore) -> bool:
        """Tell whether an utterance is pending and not committed since."""
        name = utterance.utterance_id
        if index in self.changed:  # the store can lack it if its part was set aside meanwhile
            return name not in store or store.generation(name) < self.generation
        return index in self.missing and name not in store

    def lacks(self, index: int, utterance: Utterance, store: FeatureStore, rejections: Rejections) -> bool:
        """Tell whether an utterance is pending and neither committed nor rejected since."""
        if not self.is_uncommitted(index, utterance, store):
            return False
        return rejections.settled(utterance, self.identity.modality) is None


@dataclass(frozen=True)
class Plan:
    """Plan of one extraction.

    `units` hold indices into `utterances` and do not depend on what is already committed. A unit is
    a list of batches that one process claims, encodes and commits as one part. A batch is never
    divided.
    """

    modality: str
    utterances: list[Utterance]
    targets: list[Target]
    """One per layer."""
    sizes: list[float]
    """Seconds of audio or tokens of each utterance; 0 if it is rejected."""
    costs: list[float]
    """Seconds or tokens that the encoder computes for each utterance, with the padding of its own
    windows."""
    num_frames: list[int]
    """Frames or tokens of each utterance's features."""
    frame_bytes: int
    """Bytes of one frame or token in a store."""
    units: list[list[list[int]]]
    rejected: dict[int, Rejection]
    """Utterances whose audio cannot be used."""
    end_clipped: int
    """Number of segments that end slightly after the end of the file."""
    truncated: int
    """Number of transcripts that are longer than the encoder's maximum length."""
    token_counts: TokenCounts | None
    """Counts of the transcripts' tokens; None for audio."""
    budget: float
    """Maximum padded cost of a batch."""

    @property
    def pending(self) -> set[int]:
        """Utterances to encode for at least one layer."""
        return set().union(*(target.pending for target in self.targets))

    def shard(self, number: int, count: int) -> list[list[list[int]]]:
        """Return the units of shard `number` of `count`; numbers count from 1."""
        return self.units[number - 1 :: count]

    @property
    def batches(self) -> list[list[int]]:
        """The batches of all units."""
        return list(chain.from_iterable(self.units))

    def unit_name(self, unit: Sequence[Sequence[int]]) -> str:
        """Return the name of a unit, a hash of its utterance ids."""
        ids = "\n".join(self.utterances[i].utterance_id for i in chain.from_iterable(unit))
        return hashlib.sha256(ids.encode()).hexdigest()[:16]

    def num_kept(self, target: Target) -> int:
        """Return the number of utterances that a store has already."""
        return len(self.utterances) - len(target.pending) - self.num_rejected(target)

    def num_rejected(self, target: Target) -> int:
        """Return the number of utterances that are rejected, now or by an earlier extraction."""
        return len(self.rejected.keys() | target.settled.keys())

    def with_budget(self, budget: float) -> Plan:
        """Return the plan with batches of another budget."""
        if budget == self.budget:
            return self
        sizes = [count * self.frame_bytes for count in self.num_frames]
        units = plan_units(self.costs, sizes, self.rejected.keys(), budget)
        return replace(self, budget=budget, units=units)

    @property
    def hours(self) -> float:
        """Hours of audio of all utterances."""
        return sum(self.sizes) / 3600

    @property
    def num_bytes(self) -> int:
        """Exact bytes of the features to write."""
        num_frames = 0
        for target in self.targets:
            num_frames += sum(self.num_frames[i] for i in target.pending)
        return num_frames * self.frame_bytes

    @property
    def gb_per_hour(self) -> float | None:
        """GB of one layer's features per hour of audio; None without audio."""
        if not self.hours:
            return None
        return round(sum(self.num_frames) * self.frame_bytes / 1e9 / self.hours, 4)

    @property
    def padding(self) -> float:
        """Fraction of padding: of windows, and of batches padded to their longest utterance."""
        return round(padding_fraction(self.sizes, self.batches, self.costs), 4)


def make_plan(
    utterances: list[Utterance],
    encoder: Encoder,
    identities: Sequence[StoreIdentity],
    budget: float,
    settings: ExtractSettings,
    reporter: Reporter = SILENT,
) -> Plan:
    """Inspect every utterance and compare it with the store of each identity. Nothing is written.

    `budget` is the maximum cost of a batch in padded seconds or tokens. InputError if a store holds
    another content under the same id, unless `settings.update`.
    """
    measured = measure(utterances, encoder)
    modality = encoder.modality
    comparison = InputComparison(modality, reporter, decode=settings.verify_inputs)
    targets = [_make_target(measured, identity, comparison, settings) for identity in identities]
    frame_bytes = encoder.dim * (2 if identities[0].store_dtype == "fp16" else 4)
    sizes = [count * frame_bytes for count in measured.num_frames]
    return Plan(
        modality=modality,
        utterances=utterances,
        targets=targets,
        sizes=measured.sizes,
        costs=measured.costs,
        num_frames=measured.num_frames,
        frame_bytes=frame_bytes,
        units=plan_units(measured.costs, sizes, measured.rejected, budget),
        rejected=measured.rejected,
        end_clipped=measured.end_clipped,
        truncated=measured.truncated,
        token_counts=encoder.count_tokens(map(transcript_of, utterances)) if modality == "text" else None,
        budget=budget,
    )


def plan_units(
    costs: Sequence[float], sizes: Sequence[int], rejected: Collection[int], budget: float
) -> list[list[list[int]]]:
    """Return the units of the utterances that are not rejected, in batches of at most `budget`.

    `sizes` are the bytes of each utterance's features.
    """
    kept = [i for i in range(len(costs)) if i not in rejected]
    batches = []
    for positions in plan_batches([costs[i] for i in kept], budget, MAX_BATCH):
        batches.append([kept[position] for position in positions])
    return cut_units(batches, costs, sizes)


def cut_units(batches: Sequence[list[int]], costs: Sequence[float], sizes: Sequence[int]) -> list[list[list[int]]]:
    """Group consecutive batches into units that fit into one part.

    A unit ends with the batch that reaches 1 / UNITS of the total cost.
    """
    enough = sum(costs) / UNITS
    units: list[list[list[int]]] = []
    count, size, cost = 0, 0, 0.0  # of the last unit
    for batch in batches:
        more = sum(sizes[i] for i in batch)
        fits = count + len(batch) <= PART_UTTERANCES and size + more <= PART_BYTES
        if not units or not fits or cost >= enough:
            units.append([])
            count, size, cost = 0, 0, 0.0
        units[-1].append(batch)
        count, size, cost = count + len(batch), size + more, cost + sum(costs[i] for i in batch)
    return units


def _make_target(
    measured: Measurements, identity: StoreIdentity, comparison: InputComparison, settings: ExtractSettings
) -> Target:
    """Compare all utterances with the store of an identity.

    Utterances whose audio cannot be decoded for this are added to `measured.rejected`.
    """
    info = find_identity(settings.features_dir, identity)
    store = FeatureStore(info.path) if info else None
    rejections = Rejections(info.path) if info is not None and not settings.retry_rejected else None
    missing, changed, moved = set[int](), set[int](), dict[str, str]()
    settled: dict[int, Rejection] = {}
    for i, utterance in enumerate(measured.utterances):
        if i in measured.rejected:
            continue
        try:
            found = _compare(utterance, store, comparison)
        except AudioError as error:
            measured.rejected[i] = Rejection(utterance, error.reason, str(error))
            continue
        if found == "moved":
            moved[utterance.utterance_id] = comparison.source(utterance).json_text()
        # stored and unchanged, perhaps with a new source record
        if found in ("same", "moved"):
            continue
        rejection = rejections.settled(utterance, identity.modality) if rejections else None
        if rejection is not None:
            settled[i] = rejection
        else:
            (missing if found is None else changed).add(i)
    if store is not None and moved:
        store.remember_sources(moved)
    changed_utterances = [measured.utterances[i] for i in sorted(changed)]
    if store is None or not changed_utterances:
        return Target(identity, info, missing, changed, 0, settled)
    if not settings.update:
        raise _changed_error(changed_utterances, store)
    # written under a higher generation, the new features replace the stored ones
    newest = max([store.generation(utterance.utterance_id) for utterance in changed_utterances])
    return Target(identity, info, missing, changed, newest + 1, settled)


def _compare(utterance: Utterance, store: FeatureStore | None, comparison: InputComparison) -> Freshness | None:
    """Compare an utterance with its stored features; None if the store has none."""
    if store is None or utterance.utterance_id not in store:
        return None
    return comparison.compare(utterance, store.utterance_info(utterance.utterance_id))


def _changed_error(changed: list[Utterance], store: FeatureStore) -> InputError:
    names = name_some([f"{u.utterance_id!r} ({u.file}:{u.line})" for u in changed])
    return InputError(
        f"utterances must have the content that {store.path} holds under their ids, "
        f"found another content for {len(changed)} utterances: {names}. "
        "If this is another corpus, give it its own --features-dir. "
        "If audio or transcripts were changed on purpose, run the same command with --update"
    )
