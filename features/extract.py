"""Extraction on one machine: run a frozen encoder once over every utterance and commit the sequences to a store.

The unit of work and of resuming is a whole batch of the plan, and the plan depends on the manifest and the budget
alone: an extraction that was interrupted and continued computes the same batches as one that was not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from features.config import EncodeOptions
from features.encode import computing, encode_batch, resolve_device
from features.encoders.base import Encoder, load_encoder
from features.encoders.checkpoint import save_own
from features.encoders.selector import DEFAULT_SETTINGS, EncoderSettings, Layer, Selector
from features.errors import InputError
from features.inputs import SAMPLE_RATE
from features.layer_means import LayerMeans
from features.manifest import Utterance
from features.plan import Plan, Target, make_plan
from features.store.identity import StoreInfo, create_store, identity_hash
from features.store.index import features_folder
from features.store.provenance import provenance
from features.store.writer import REJECTED_FILE, StoreWriter

FREE_DISK_MARGIN = 64 << 20
Say = Callable[[str], None]
"""Prints one line for people."""
Progress = Callable[[int, int], Any]
"""`progress(total, done)` returns a bar with `update(n)`, `set_postfix_str(text)` and `close()`."""


@dataclass(frozen=True)
class ExtractSettings:
    """What an extraction is told besides the encoder."""

    features_dir: Path
    store_dtype: str = "fp16"
    encoder_precision: str = "fp32"
    encoder: EncoderSettings = DEFAULT_SETTINGS
    device: str = "auto"
    batch_seconds: float | None = None
    update: bool = False
    plan_only: bool = False
    layer_means: bool = False
    """Store the time-mean of each layer instead of sequences."""


@dataclass(frozen=True)
class StoreResult:
    """What an extraction did for one store."""

    path: str
    identity: str
    encoded: int
    kept: int
    rejected: int
    end_clipped: int
    truncated: int
    seconds: float
    real_time_factor: float | None
    """Audio seconds encoded per second of work; None for text."""
    gb_per_hour: float | None
    padding: float


def settings_from(options: EncodeOptions, data: Path) -> ExtractSettings:
    """Return the settings that the options mean, and set the number of CPU threads."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return ExtractSettings(
        features_dir=features_folder(options.features_dir, data),
        store_dtype=options.store_dtype,
        encoder_precision=options.encoder_precision,
        encoder=EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode),
        device=options.device,
        batch_seconds=options.batch_seconds,
        update=options.update,
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

    Raises InputError where nothing could be encoded, the disk is too small, content changed under an id, or a value
    does not fit the store's dtype; what was finished until then is committed. KeyboardInterrupt commits too.
    """
    device = resolve_device(settings.device)
    encoder = load_encoder(selector, settings.encoder)
    if settings.layer_means:
        encoder = LayerMeans(encoder)
    identities = [store_identity(encoder, selector, layer, settings) for layer in encoder.layers]
    known = provenance(selector, encoder, device)
    plan = make_plan(
        utterances, encoder, identities, settings.features_dir, device, settings.batch_seconds, settings.update
    )
    _announce(plan, selector, encoder, device, settings, say)
    if settings.plan_only:
        folders = [target.store.path if target.store else settings.features_dir for target in plan.targets]
        return [
            _result(str(f), plan, t, 0, len(plan.rejected), 0.0) for f, t in zip(folders, plan.targets, strict=True)
        ]
    infos = [create_store(settings.features_dir, identity, known, encoder.model_name) for identity in identities]
    for info in infos:
        if encoder.is_random and not (info.path / "encoder").exists():
            save_own(encoder.inner if isinstance(encoder, LayerMeans) else encoder, info.path / "encoder")
    return _run(plan, infos, encoder.to(device), device, settings, progress)


def _run(
    plan: Plan,
    infos: list[StoreInfo],
    encoder: Encoder,
    device: torch.device,
    settings: ExtractSettings,
    progress: Progress,
) -> list[StoreResult]:
    """Encode the pending batches and commit them."""
    started, audio_seconds, pending = time.perf_counter(), 0.0, plan.pending
    scope = {utterance.utterance_id for utterance in plan.utterances}
    bar = progress(len(plan.utterances), len(plan.utterances) - len(pending))
    with ExitStack() as stack:
        stack.enter_context(closing(bar))
        writers = [
            stack.enter_context(StoreWriter(info, target.generation, scope))
            for info, target in zip(infos, plan.targets, strict=True)
        ]
        stack.enter_context(computing(device, settings.encoder_precision))
        for writer in writers:
            for rejection in plan.rejected.values():
                writer.reject(rejection)
        for batch in plan.pending_batches:
            layers = encode_batch([plan.utterances[i] for i in batch], encoder, device, writers)
            for writer, target, rows in zip(writers, plan.targets, layers, strict=True):
                wanted = {plan.utterances[i].utterance_id for i in batch if i in target.pending}
                writer.add([row for row in rows if row.utterance_id in wanted])
            bar.update(len(pending.intersection(batch)))
            if encoder.modality == "audio":
                audio_seconds += sum(row.num_inputs for row in layers[0]) / SAMPLE_RATE
                bar.set_postfix_str(f"{audio_seconds / (time.perf_counter() - started):.1f}x real time", refresh=False)
    seconds = time.perf_counter() - started
    results = [
        _result(str(writer.info.path), plan, target, writer.written, len(writer.rejected), seconds, audio_seconds)
        for writer, target in zip(writers, plan.targets, strict=True)
    ]
    for result in results:
        if not result.encoded and not result.kept:
            raise InputError(f"nothing could be encoded; the reasons are in {Path(result.path) / REJECTED_FILE}")
    return results


def _result(
    path: str, plan: Plan, target: Target, encoded: int, rejected: int, seconds: float, audio_seconds: float = 0.0
) -> StoreResult:
    return StoreResult(
        path=path,
        identity=identity_hash(target.identity),
        encoded=encoded,
        kept=plan.num_kept(target),
        rejected=rejected,
        end_clipped=plan.end_clipped,
        truncated=plan.truncated,
        seconds=round(seconds, 3),
        real_time_factor=round(audio_seconds / seconds, 2) if audio_seconds and seconds else None,
        gb_per_hour=plan.gb_per_hour if plan.modality == "audio" else None,
        padding=plan.padding,
    )


def _announce(
    plan: Plan, selector: Selector, encoder: Encoder, device: torch.device, settings: ExtractSettings, say: Say
) -> None:
    """Print what will be done and what it takes; InputError if it does not fit on the disk."""
    folder = settings.features_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    hours = f", {plan.hours:.2f} h" if plan.modality == "audio" else ""
    layers = f"layer{'s' if len(encoder.layers) > 1 else ''} {', '.join(map(str, encoder.layers))}"
    cut = f" {plan.truncated} transcripts are longer than the encoder takes and cut." if plan.truncated else ""
    say(f"{selector}: {encoder.weights_note}, {layers} of {encoder.num_layers}, width {encoder.dim}.{cut}")
    kept = min(plan.num_kept(target) for target in plan.targets)
    say(
        f"  {len(plan.utterances)} utterances{hours}: {len(plan.pending)} to encode on {device}, {kept} kept, "
        f"{len(plan.rejected)} rejected; {plan.num_bytes / 1e6:.1f} MB to write, {free / 1e9:.1f} GB free"
    )
    if plan.num_bytes + FREE_DISK_MARGIN > free:
        raise InputError(
            f"the features need {plan.num_bytes / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; "
            "give another --features-dir or encode less with --splits or --limit"
        )


def as_json(result: StoreResult) -> dict[str, Any]:
    """Return a result as a JSON object."""
    return asdict(result)
