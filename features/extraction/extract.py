"""Extraction: run a frozen encoder once over every utterance and commit the sequences to a store.

The plan depends on the manifest and the budget alone: an extraction that was interrupted and continued, or shared by
several processes, computes the same batches as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from features.device import resolve_device
from features.encoders.base import Encoder
from features.encoders.selector import Selector
from features.errors import InputError
from features.extraction.encode import refuse_seen
from features.extraction.plan import Plan, make_plan
from features.extraction.report import StoreResult, announce, make_result
from features.extraction.scheduler import Share
from features.extraction.settings import ExtractSettings, open_encoder, provenance, record_encoder, store_identity
from features.extraction.worker import Destination, Engine, LocalEngine
from features.manifests.manifest import Utterance
from features.progress import Progress, Say
from features.signals import interruptible
from features.store.batching_budget import agree_on_budget, recorded_budget, refuse_other_budget
from features.store.claims import Claims
from features.store.identity import create_store
from features.store.rejected import REJECTED_FILE, Rejection, record_rejected
from features.store.writer import choose_format


def extract_stream(
    utterances: list[Utterance], selector: Selector, settings: ExtractSettings, say: Say, progress: Progress
) -> list[StoreResult]:
    """Extract one encoder's features of these utterances, one store a layer; rows that are there are kept.

    Several processes that extract into one store share its units. Raises InputError where nothing could be encoded,
    the disk is too small, content changed under an id, or a value does not fit the store's dtype; what was finished
    until then is committed. KeyboardInterrupt commits too.
    """
    encoder = open_encoder(selector, settings)
    refuse_seen(utterances, encoder)
    identities = [store_identity(encoder, selector, layer, settings) for layer in encoder.layers]
    with closing(_open_engine(encoder, selector, settings, identities, say)) as engine:
        wanted = settings.batch_seconds if encoder.modality == "audio" else None
        budget = wanted or recorded_budget(settings.features_dir, identities) or engine.default_budget
        plan = make_plan(
            utterances, encoder, identities, settings.features_dir, budget, settings.update,
            retry_rejected=settings.retry_rejected, verify_inputs=settings.verify_inputs, say=say,
        )  # fmt: skip
        announce(plan, selector, encoder, engine.device, settings.features_dir, say)
        if settings.plan_only:
            folders = [target.store.path if target.store else settings.features_dir for target in plan.targets]
            return [make_result(plan, t, str(f), 0) for f, t in zip(folders, plan.targets, strict=True)]
        destinations = _make_destinations(plan, encoder, selector, settings, engine.device)
        infos = [to.info for to in destinations]
        with Claims([info.path for info in infos]) as claims:
            if wanted is not None:
                refuse_other_budget(infos[0], wanted, claims)
            plan = plan.with_budget(agree_on_budget(infos, plan.budget, replace=wanted is not None))
            engine.start(destinations, claims.token)
            with interruptible() if settings.engine == "local" else nullcontext():
                return _run(plan, destinations, engine, claims, settings, say, progress)


def _open_engine(
    encoder: Encoder, selector: Selector, settings: ExtractSettings, identities: list[dict[str, Any]], say: Say
) -> Engine:
    if settings.engine == "ray":
        from features.extraction.ray_engine import RayEngine

        return RayEngine(encoder, selector, settings, identities, say)
    return LocalEngine(encoder, resolve_device(settings.device), settings.encoder_precision)


def _make_destinations(
    plan: Plan, encoder: Encoder, selector: Selector, settings: ExtractSettings, device: torch.device
) -> list[Destination]:
    """Create the stores that do not exist yet; return where the rows of each layer go."""
    known = provenance(selector, encoder, device)
    made = []
    for target in plan.targets:
        info = create_store(settings.features_dir, target.identity, known, encoder.model_name)
        info = record_encoder(info, encoder)
        made.append(Destination(info, target.generation, choose_format(info, settings.format)))
    return made


@dataclass
class Done:
    """What this process has done for one store."""

    written: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    rejected: dict[str, Rejection] = field(default_factory=dict)


def _forget_rejections(plan: Plan, destinations: Sequence[Destination]) -> None:
    """Take what will be tried again off the rejected.jsonl of its store."""
    for to, target in zip(destinations, plan.targets, strict=True):
        record_rejected(to.info, {plan.utterances[i].utterance_id for i in target.pending})


def _run(
    plan: Plan,
    destinations: list[Destination],
    engine: Engine,
    claims: Claims,
    settings: ExtractSettings,
    say: Say,
    progress: Progress,
) -> list[StoreResult]:
    """Encode the pending units and commit them; what is rejected is written down however this ends."""
    started = time.perf_counter()
    first = {rejection.utterance.utterance_id: rejection for rejection in plan.rejected.values()}
    done = [Done(tried=set(first), rejected=dict(first)) for _ in destinations]
    if settings.retry_rejected:
        _forget_rejections(plan, destinations)
    share = Share(plan, [to.info for to in destinations], claims, settings.shard)
    bar = progress(len(plan.utterances), len(plan.utterances) - len(plan.pending))
    audio_seconds = 0.0
    try:
        with closing(bar):
            for unit in share.through(engine, say, bar.update):
                for one, written in zip(done, unit.written, strict=True):
                    one.written.update(written)
                    one.rejected |= {rejection.utterance.utterance_id: rejection for rejection in unit.rejected}
                    one.tried.update(written, one.rejected)
                audio_seconds += unit.audio_seconds
                if audio_seconds:
                    speed = audio_seconds / (time.perf_counter() - started)
                    bar.set_postfix_str(f"{speed:.1f}x real time", refresh=False)
    finally:
        for to, one in zip(destinations, done, strict=True):
            record_rejected(to.info, one.tried, list(one.rejected.values()))
    seconds = time.perf_counter() - started
    results = [
        make_result(plan, target, str(to.info.path), len(one.written), seconds, audio_seconds, store)
        for to, target, one, store in zip(destinations, plan.targets, done, share.stores, strict=True)
    ]
    _refuse_nothing(results)
    return results


def _refuse_nothing(results: Sequence[StoreResult]) -> None:
    """Raise InputError if every utterance of a store was rejected."""
    for result in results:
        if not result.encoded and not result.kept and not result.left:
            raise InputError(f"nothing could be encoded; the reasons are in {Path(result.path) / REJECTED_FILE}")
