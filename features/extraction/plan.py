"""Plan of an extraction: units of work; missing, changed and rejected utterances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from operator import or_

import numpy as np

from features.encoders.base import Encoder
from features.errors import InputError, name_some
from features.extraction.comparison import CorpusComparison
from features.extraction.encoder_input import InputComparison
from features.extraction.measure import Measurements, measure
from features.extraction.settings import ExtractSettings
from features.extraction.units import MAX_BATCH as MAX_BATCH
from features.extraction.units import IndexSet, Units, plan_units
from features.manifests.columns import Array
from features.manifests.manifest import Utterance
from features.manifests.utterances import id_at
from features.progress import SILENT, Reporter
from features.store.identity import StoreIdentity, StoreInfo, find_identity
from features.store.reader import FeatureStore
from features.store.rejected import Rejection, Rejections
from features.text.normalize import TokenCounts


@dataclass(frozen=True)
class Target:
    """Store of one layer, and the utterances that it lacks, as indices into `Plan.utterances`."""

    identity: StoreIdentity
    store: StoreInfo | None
    """None if the store does not exist yet."""
    missing: Set[int]
    changed: Set[int]
    """Committed, but with another input."""
    generation: int
    """Generation of the features that this extraction writes."""
    settled: Mapping[int, Rejection]
    """Missing or changed, but an earlier extraction has rejected the same input."""
    opened: FeatureStore | None = None
    """The store, if it exists: opening it takes seconds if it is large."""
    recovered: Set[str] = frozenset()
    """Ids of utterances whose current input is stored, although an earlier extraction rejected another one."""

    @property
    def pending(self) -> Set[int]:
        """All utterances to write."""
        return self.missing | self.changed

    def uncommitted(self, indices: Sequence[int], utterance_ids: Sequence[str], store: FeatureStore) -> list[bool]:
        """Tell which of these utterances are pending and not committed since; `utterance_ids` are their ids."""
        found = []
        for i, name, is_stored in zip(indices, utterance_ids, store.has(utterance_ids).tolist(), strict=True):
            if i in self.changed:  # the store can lack it if its part was set aside meanwhile
                found.append(not is_stored or store.generation(name) < self.generation)
            else:
                found.append(not is_stored and i in self.missing)
        return found


@dataclass(frozen=True)
class Plan:
    """Plan of one extraction.

    `units` hold indices into `utterances` and do not depend on what is already committed. A unit is
    a list of batches that one process claims, encodes and commits as one part. A batch is never
    divided.
    """

    modality: str
    utterances: Sequence[Utterance]
    targets: list[Target]
    """One per layer."""
    sizes: Array
    """Seconds of audio or tokens of each utterance, (N,) float64; 0 if it is rejected."""
    costs: Array
    """Seconds or tokens that the encoder computes for each utterance, with the padding of its own
    windows, (N,) float64."""
    num_frames: Array
    """Frames or tokens of each utterance's features, (N,) int64."""
    frame_bytes: int
    """Bytes of one frame or token in a store."""
    units: Units
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
    empty: Sequence[int]
    """Utterances with a missing or empty transcript; none for audio."""
    keep: Callable[[], object]
    """Writes what was measured into its file in the features folder, if that did not exist yet."""

    @property
    def pending(self) -> Set[int]:
        """Utterances to encode for at least one layer."""
        first, *others = (target.pending for target in self.targets)
        return reduce(or_, others, first)

    def shard(self, number: int, count: int) -> Units:
        """Return the units of shard `number` of `count`; numbers count from 1."""
        return self.units[number - 1 :: count]

    def unit_name(self, unit: Sequence[Sequence[int]]) -> str:
        """Return the name of a unit, a hash of its utterance ids."""
        ids = "\n".join([id_at(self.utterances, i) for i in chain.from_iterable(unit)])
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
        units = plan_units(self.costs, self.num_frames * self.frame_bytes, self.rejected.keys(), budget)
        return replace(self, budget=budget, units=units)

    @property
    def hours(self) -> float:
        """Hours of audio of all utterances."""
        seconds: float = sum(self.sizes.tolist())
        return seconds / 3600

    @property
    def num_bytes(self) -> int:
        """Exact bytes of the features to write."""
        num_frames = 0
        for target in self.targets:
            num_frames += int(self.num_frames[list(target.pending)].sum())
        return num_frames * self.frame_bytes

    @property
    def gb_per_hour(self) -> float | None:
        """GB of one layer's features per hour of audio; None without audio."""
        if not self.hours:
            return None
        return round(int(self.num_frames.sum()) * self.frame_bytes / 1e9 / self.hours, 4)

    @property
    def padding(self) -> float:
        """Fraction of padding: of windows, and of batches padded to their longest utterance."""
        return round(self.units.padding(self.sizes, self.costs), 4)


def make_plan(
    utterances: Sequence[Utterance],
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
    measured = measure(utterances, encoder, settings, reporter)
    modality = encoder.modality
    inputs = InputComparison(modality, reporter, decode=settings.verify_inputs)
    comparison = CorpusComparison(utterances, inputs, measured.sources or measured.hashes, reporter)
    targets = [_make_target(measured, identity, comparison, settings) for identity in identities]
    frame_bytes = encoder.dim * (2 if identities[0].store_dtype == "fp16" else 4)
    return Plan(
        modality=modality,
        utterances=utterances,
        targets=targets,
        sizes=measured.sizes,
        costs=measured.costs,
        num_frames=measured.num_frames,
        frame_bytes=frame_bytes,
        units=plan_units(measured.costs, measured.num_frames * frame_bytes, measured.rejected.keys(), budget),
        rejected=measured.rejected,
        end_clipped=measured.end_clipped,
        truncated=measured.truncated,
        token_counts=measured.token_counts,
        budget=budget,
        empty=measured.empty,
        keep=measured.keep,
    )


def _make_target(
    measured: Measurements, identity: StoreIdentity, comparison: CorpusComparison, settings: ExtractSettings
) -> Target:
    """Compare all utterances with the store of an identity.

    Utterances whose audio cannot be decoded for this are added to `measured.rejected`.
    """
    info = find_identity(settings.features_dir, identity)
    skipped = np.zeros(len(measured.utterances), bool)
    skipped[list(measured.rejected)] = True
    if info is None:
        return Target(identity, None, IndexSet(~skipped), IndexSet(np.zeros_like(skipped)), 0, {})
    store = FeatureStore(info.path)
    found = comparison.compare(store, skipped)
    measured.rejected |= found.unusable
    skipped[list(found.unusable)] = True
    if found.moved:
        store.remember_sources({id_at(measured.utterances, i): source for i, source in found.moved.items()})
    rejections = Rejections(info.path)
    listed = [i for i in sorted(comparison.index.find(list(rejections)).tolist()) if i >= 0 and not skipped[i]]
    recovered = frozenset(id_at(measured.utterances, i) for i in listed if found.is_stored[i])
    settled: dict[int, Rejection] = {}
    if not settings.retry_rejected:
        lacking = [i for i in listed if not found.is_stored[i]]
        settled = _find_settled(measured.utterances, identity.modality, rejections, lacking)
        skipped[list(settled)] = True
    missing = IndexSet(~(skipped | found.is_stored | found.is_changed))
    changed = IndexSet(found.is_changed & ~skipped)
    if not changed:
        return Target(identity, info, missing, changed, 0, settled, store, recovered)
    if not settings.update:
        raise _changed_error(measured.utterances, changed, store)
    # written under a higher generation, the new features replace the stored ones
    newest = max([store.generation(id_at(measured.utterances, i)) for i in changed])
    return Target(identity, info, missing, changed, newest + 1, settled, store, recovered)


def _find_settled(
    utterances: Sequence[Utterance], modality: str, rejections: Rejections, indices: Sequence[int]
) -> dict[int, Rejection]:
    """Return the rejections of utterances whose input is the rejected one."""
    settled = {}
    for i in indices:
        rejection = rejections.settled(utterances[i], modality)
        if rejection is not None:
            settled[i] = rejection
    return settled


def _changed_error(utterances: Sequence[Utterance], changed: IndexSet, store: FeatureStore) -> InputError:
    found = map(utterances.__getitem__, changed)
    names = name_some([f"{u.utterance_id!r} ({u.file}:{u.line})" for u in found])
    return InputError(
        f"utterances must have the content that {store.path} holds under their ids, "
        f"found another content for {len(changed)} utterances: {names}. "
        "If this is another corpus, give it its own --features-dir. "
        "If audio or transcripts were changed on purpose, run the same command with --update"
    )
