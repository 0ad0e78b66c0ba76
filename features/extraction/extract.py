"""Extraction: run a frozen encoder once over every utterance and commit the features to a store.

The plan depends only on the manifest and the budget. An extraction that was interrupted and
resumed, or shared by several processes, therefore computes the same batches as an undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence, Set
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from features.device import resolve_device
from features.encoders.base import Encoder
from features.encoders.selector import Selector
from features.errors import InputError
from features.extraction.encode import refuse_seen
from features.extraction.plan import Plan, Target, make_plan
from features.extraction.report import StoreResult, announce, make_result
from features.extraction.scheduler import Scheduler
from features.extraction.settings import ExtractSettings, open_encoder, provenance, record_encoder, store_identity
from features.extraction.unit import UnitResult
from features.extraction.worker import Destination, Engine, LocalEngine
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.signals import interruptible
from features.store.batching_budget import agree_on_budget, recorded_budget, refuse_other_budget
from features.store.claims import Claims
from features.store.identity import StoreIdentity, StoreInfo, create_store
from features.store.rejected import REJECTED_FILE, Rejection, record_rejected
from features.store.writer import choose_format


def extract_stream(
    utterances: Sequence[Utterance], selector: Selector, settings: ExtractSettings, reporter: Reporter
) -> list[StoreResult]:
    """Extract one encoder's features of these utterances, one store per layer.

    Stored utterances are kept. Several processes that extract into one store share its units.
    InputError if nothing could be encoded, the disk is too small, the content of an id
    changed, or a value does not fit the store's dtype. Finished work is committed before that, and
    also before KeyboardInterrupt.
    """
    encoder = open_encoder(selector, settings)
    refuse_seen(utterances, encoder)
    identities = [store_identity(encoder, selector, layer, settings) for layer in encoder.layers]
    with closing(_open_engine(encoder, selector, settings, identities, reporter)) as engine:
        # --batch-seconds has no meaning for text, whose budget counts tokens
        wanted = settings.batch_seconds if encoder.modality == "audio" else None
        recorded = recorded_budget(settings.features_dir, identities)
        budget = wanted or recorded or engine.default_budget
        plan = make_plan(utterances, encoder, identities, budget, settings, reporter)
        announce(plan, selector, encoder, engine.device, settings.features_dir, reporter)
        if settings.plan_only:
            return [_planned_result(plan, target, settings.features_dir) for target in plan.targets]
        destinations = _make_destinations(plan, encoder, selector, settings, engine.device)
        plan.keep()
        infos = [destination.info for destination in destinations]
        claims = Claims([info.path for info in infos])
        if not plan.pending and wanted in (None, recorded):  # nothing to write
            with suppress(InputError, OSError), claims:  # read-only stores and full disks keep what was left there
                pass
            return _run(plan, destinations, engine, claims, settings, reporter)
        with claims:
            if wanted is not None:
                refuse_other_budget(infos[0], wanted, claims)
            # another process may have recorded its budget since the plan was made
            plan = plan.with_budget(agree_on_budget(infos, plan.budget, replace=wanted is not None))
            engine.start(destinations, claims.token)
            # with Ray, Ctrl-C interrupts the wait for the actors at once
            with interruptible() if settings.engine == "local" else nullcontext():
                return _run(plan, destinations, engine, claims, settings, reporter)


def _open_engine(
    encoder: Encoder, selector: Selector, settings: ExtractSettings, identities: list[StoreIdentity], reporter: Reporter
) -> Engine:
    if settings.engine == "ray":
        from features.extraction.ray_engine import RayEngine

        return RayEngine(encoder, selector, settings, identities, reporter)
    return LocalEngine(encoder, resolve_device(settings.device), settings.encoder_precision, settings.workers)


def _planned_result(plan: Plan, target: Target, features_dir: Path) -> StoreResult:
    path = target.store.path if target.store else features_dir
    return make_result(plan, target, str(path), encoded=0)


def _make_destinations(
    plan: Plan, encoder: Encoder, selector: Selector, settings: ExtractSettings, device: torch.device
) -> list[Destination]:
    """Create the stores that do not exist yet; return the destination of each layer."""
    known = provenance(selector, encoder, device)
    destinations = []
    for target in plan.targets:
        info = create_store(settings.features_dir, target.identity, known, encoder.model_name)
        info = record_encoder(info, encoder)
        kind = choose_format(info, settings.format)
        destinations.append(Destination(info, target.generation, kind))
    return destinations


@dataclass
class StoreProgress:
    """Ids of the utterances of one store that this process has committed or rejected."""

    recovered: Set[str]
    """Utterances whose earlier rejection no longer counts."""
    written: set[str] = field(default_factory=set)
    rejected: dict[str, Rejection] = field(default_factory=dict)

    def add_rejected(self, rejections: Iterable[Rejection]) -> None:
        """Add rejected utterances."""
        for rejection in rejections:
            self.rejected[rejection.utterance.utterance_id] = rejection

    def record(self, info: StoreInfo, committed: Set[str]) -> None:
        """Update rejected.jsonl of the store; what another process has committed meanwhile is not rejected."""
        rejected = [rejection for name, rejection in self.rejected.items() if name not in committed]
        record_rejected(info, self.recovered | self.written | self.rejected.keys(), rejected)


def _forget_rejections(plan: Plan, destinations: Sequence[Destination], shard: tuple[int, int]) -> None:
    """Remove the utterances that will be tried again from the rejected.jsonl of each store.

    Those of other shards stay: their processes may have tried them again already.
    """
    own = set(chain.from_iterable(chain.from_iterable(plan.shard(*shard))))
    for destination, target in zip(destinations, plan.targets, strict=True):
        record_rejected(destination.info, {plan.utterances[i].utterance_id for i in target.pending & own})


def _run(
    plan: Plan,
    destinations: list[Destination],
    engine: Engine,
    claims: Claims,
    settings: ExtractSettings,
    reporter: Reporter,
) -> list[StoreResult]:
    """Encode and commit the pending units. The rejections are recorded even if this raises."""
    started = time.perf_counter()
    progress = []
    for target in plan.targets:
        done = StoreProgress(target.recovered)
        done.add_rejected(plan.rejected.values())
        progress.append(done)
    if settings.retry_rejected:
        _forget_rejections(plan, destinations, settings.shard)
    scheduler = Scheduler(plan, destinations, claims, settings.shard)
    bar = reporter.progress(len(plan.utterances), len(plan.utterances) - len(plan.pending))
    audio_seconds = 0.0
    try:
        with closing(bar):
            for unit in scheduler.run(engine, reporter, bar.update):
                _add_result(unit, progress)
                audio_seconds += unit.audio_seconds
                _show_speed(bar, audio_seconds, started)
    finally:
        # also after Ctrl-C: other runs must not try these inputs again
        for number, (destination, done) in enumerate(zip(destinations, progress, strict=True)):
            done.record(destination.info, scheduler.committed(number, list(done.rejected)))
    seconds = time.perf_counter() - started
    results = []
    for target, done, store in zip(plan.targets, progress, scheduler.stores, strict=True):
        num_written = len(done.written)
        results.append(make_result(plan, target, str(store.path), num_written, seconds, audio_seconds, store))
    _refuse_all_rejected(results)
    return results


def _add_result(unit: UnitResult, progress: Sequence[StoreProgress]) -> None:
    """Add the utterances of one unit to the progress of each store."""
    for done, written in zip(progress, unit.written, strict=True):
        done.written.update(written)
        done.add_rejected(unit.rejected)


def _show_speed(bar: Any, audio_seconds: float, started: float) -> None:
    if audio_seconds:
        speed = audio_seconds / (time.perf_counter() - started)
        bar.set_postfix_str(f"{speed:.1f}x real time", refresh=False)


def _refuse_all_rejected(results: Sequence[StoreResult]) -> None:
    """Raise InputError if every utterance of a store was rejected."""
    for result in results:
        if not result.encoded and not result.kept and not result.left:
            reasons = Path(result.path) / REJECTED_FILE
            raise InputError(f"no utterance could be encoded; the reasons are in {reasons}")
