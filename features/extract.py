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

from features.config import EncodeOptions
from features.cpu_threads import set_threads
from features.encode import refuse_seen, resolve_device
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import DEFAULT_SETTINGS, EncoderSettings, Layer, Selector
from features.errors import InputError
from features.extract_report import StoreResult, announce, make_result
from features.inputs import SAMPLE_RATE
from features.interruption import interruptible
from features.layer_means import LayerMeans
from features.manifest import Utterance
from features.plan import Plan, make_plan
from features.progress import Progress, Say
from features.share import Share
from features.store.batching_budget import agree_on_budget, recorded_budget, refuse_other_budget
from features.store.claims import Claims
from features.store.identity import create_store
from features.store.index import features_folder
from features.store.provenance import provenance, record_encoder
from features.store.rejected import REJECTED_FILE, Rejection, record_rejected
from features.store.writer import choose_format
from features.work import Destination, Engine, LocalEngine


@dataclass(frozen=True)
class ExtractSettings:
    """What an extraction is told besides the encoder."""

    features_dir: Path
    store_dtype: str = "fp16"
    encoder_precision: str = "fp32"
    encoder: EncoderSettings = DEFAULT_SETTINGS
    device: str = "auto"
    batch_seconds: float | None = None
    """Padded seconds of audio per batch; else what the store's first extraction recorded, else the device's default."""
    update: bool = False
    verify_inputs: bool = False
    """Decode the audio of what is stored and compare it."""
    retry_rejected: bool = False
    """Try again what was rejected before, though its input is unchanged."""
    plan_only: bool = False
    format: str | None = None
    """hdf5 or zarr; else that of the store's parts."""
    shard: tuple[int, int] = (1, 1)
    """The I-th of N shares of the units."""
    engine: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    threads: int | None = None
    layer_means: bool = False
    """Store the time-mean of each layer instead of sequences."""


def settings_from(options: EncodeOptions, data: Path) -> ExtractSettings:
    """Return the settings that the options mean, and set the number of CPU threads."""
    set_threads(options.threads)
    return ExtractSettings(
        features_dir=features_folder(options.features_dir, data),
        store_dtype=options.store_dtype,
        encoder_precision=options.encoder_precision,
        encoder=EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode),
        device=options.device,
        batch_seconds=options.batch_seconds,
        update=options.update,
        threads=options.threads,
    )


def store_identity(encoder: Encoder, selector: Selector, layer: Layer, settings: ExtractSettings) -> dict[str, Any]:
    """Return everything that changes the numbers of a store, and nothing else."""
    identity: dict[str, Any] = {
        "modality": encoder.modality,
        "encoder": selector.name,
        "weights_sha256": encoder.weights_sha256,
        "config": encoder.config,
        "layer": layer,
        "dim": encoder.dim,
        "encoder_precision": settings.encoder_precision,
        "store_dtype": settings.store_dtype,
        "numerics_version": encoder.numerics_version,
    }
    if encoder.modality == "audio":
        identity["sample_rate"] = SAMPLE_RATE
    return identity


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
        from features.extract_ray import RayEngine

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


def open_encoder(selector: Selector, settings: ExtractSettings) -> Encoder:
    """Load the encoder that an extraction runs."""
    encoder = load_encoder(selector, settings.encoder)
    return LayerMeans(encoder) if settings.layer_means else encoder


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
