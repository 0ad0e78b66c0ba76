"""Extraction on one machine: run a frozen encoder once over every utterance and commit the sequences to a store.

The unit of work and of resuming is a whole batch of the plan, and the plan depends on the manifest and the budget
alone: an extraction that was interrupted and continued computes the same batches as one that was not.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from features.audio import AudioError
from features.config import ExtractOptions
from features.encoders.base import Encoder, load_encoder
from features.encoders.checkpoint import save_own
from features.encoders.selector import Selector
from features.errors import InputError
from features.inputs import SAMPLE_RATE, Input, read_input
from features.manifest import Utterance
from features.plan import Plan, make_plan
from features.ragged import Ragged
from features.store.hdf5 import Row
from features.store.identity import StoreInfo, create_store
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
    device: str = "auto"
    batch_seconds: float | None = None
    update: bool = False
    plan_only: bool = False


@dataclass(frozen=True)
class StoreResult:
    """What an extraction did for one store."""

    path: str
    identity: str
    encoded: int
    kept: int
    rejected: int
    end_clipped: int
    seconds: float
    real_time_factor: float | None
    """Audio seconds encoded per second of work; None for text."""
    gb_per_hour: float | None
    padding: float


def settings_from(options: ExtractOptions, data: Path) -> ExtractSettings:
    """Return the settings that the options of `mervn extract` mean, and set the number of CPU threads."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return ExtractSettings(
        features_dir=features_folder(options.features_dir, data),
        store_dtype=options.store_dtype,
        device=options.device,
        batch_seconds=options.batch_seconds,
        update=options.update,
        plan_only=options.plan,
    )


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` takes a GPU if torch sees one. InputError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"--device must be a device that torch can use here, found {name!r}: {first}") from error
    return device


def store_identity(encoder: Encoder, selector: Selector, store_dtype: str) -> dict[str, Any]:
    """Return everything that changes the numbers of a store, and nothing else."""
    identity: dict[str, Any] = {
        "modality": encoder.modality,
        "encoder": selector.name,
        "weights_sha256": encoder.weights_sha256,
        "config": encoder.config,
        "layer": encoder.layer,
        "dim": encoder.dim,
        "encoder_precision": "fp32",
        "store_dtype": store_dtype,
        "numerics_version": encoder.numerics_version,
    }
    if encoder.modality == "audio":
        identity["sample_rate"] = SAMPLE_RATE
    return identity


def extract_stream(
    utterances: list[Utterance], selector: Selector, settings: ExtractSettings, say: Say, progress: Progress
) -> StoreResult:
    """Extract one encoder's features of these utterances into their store; rows that are there are kept.

    Raises InputError where nothing could be encoded, the disk is too small, content changed under an id, or a value
    does not fit the store's dtype; what was finished until then is committed. KeyboardInterrupt commits too.
    """
    device = resolve_device(settings.device)
    encoder = load_encoder(selector)
    identity = store_identity(encoder, selector, settings.store_dtype)
    known = provenance(selector, encoder, device)
    plan = make_plan(
        utterances, encoder, identity, settings.features_dir, device, settings.batch_seconds, settings.update
    )
    _announce(plan, selector, encoder, device, settings, say)
    if settings.plan_only:
        folder = plan.store.path if plan.store else settings.features_dir
        return _result(str(folder), plan, 0, len(plan.rejected), 0.0)
    info = create_store(settings.features_dir, identity, known, encoder.model_name)
    if encoder.is_random and not (info.path / "encoder").exists():
        save_own(encoder, info.path / "encoder")
    return _run(plan, info, encoder.to(device), device, progress)


def _run(plan: Plan, info: StoreInfo, encoder: Encoder, device: torch.device, progress: Progress) -> StoreResult:
    """Encode the pending batches and commit them."""
    started, audio_seconds = time.perf_counter(), 0.0
    scope = {utterance.utterance_id for utterance in plan.utterances}
    bar = progress(len(plan.utterances), len(plan.utterances) - len(plan.pending))
    with closing(bar), StoreWriter(info, plan.generation, scope) as writer, exact_matmul():
        for rejection in plan.rejected.values():
            writer.reject(rejection)
        for batch in plan.pending_batches:
            wanted = {plan.utterances[i].utterance_id for i in batch if i in plan.pending}
            rows = encode_batch([plan.utterances[i] for i in batch], encoder, device, writer)
            writer.add([row for row in rows if row.utterance_id in wanted])
            bar.update(len(wanted))
            if encoder.modality == "audio":
                audio_seconds += sum(row.num_inputs for row in rows) / SAMPLE_RATE
                bar.set_postfix_str(f"{audio_seconds / (time.perf_counter() - started):.1f}x real time", refresh=False)
    result = _result(
        str(info.path), plan, writer.written, len(writer.rejected), time.perf_counter() - started, audio_seconds
    )
    if not result.encoded and not result.kept:
        raise InputError(f"nothing could be encoded; the reasons are in {info.path / REJECTED_FILE}")
    return result


def _result(
    path: str, plan: Plan, encoded: int, rejected: int, seconds: float, audio_seconds: float = 0.0
) -> StoreResult:
    return StoreResult(
        path=path,
        identity=plan.identity_hash,
        encoded=encoded,
        kept=plan.num_kept,
        rejected=rejected,
        end_clipped=plan.end_clipped,
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
    say(f"{selector}: {encoder.weights_note}, layer {encoder.layer} of {encoder.num_layers}, width {encoder.dim}")
    say(
        f"  {len(plan.utterances)} utterances{hours}: {len(plan.missing)} to encode on {device}, {plan.num_kept} kept, "
        f"{len(plan.rejected)} rejected; {plan.num_bytes / 1e6:.1f} MB to write, {free / 1e9:.1f} GB free"
    )
    if plan.num_bytes + FREE_DISK_MARGIN > free:
        raise InputError(
            f"the features need {plan.num_bytes / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free; "
            "give another --features-dir or encode less with --splits or --limit"
        )


def encode_batch(utterances: list[Utterance], encoder: Encoder, device: torch.device, writer: StoreWriter) -> list[Row]:
    """Read and encode one batch; what cannot be read, and what encodes to NaN, is rejected with its reason."""
    inputs: list[Input] = []
    for utterance in utterances:
        try:
            inputs.append(read_input(utterance, encoder))
        except AudioError as error:
            writer.reject((utterance, error.reason, str(error)))
    sequences = encode([item.prepared for item in inputs], encoder, device)
    rows = []
    for item, features in zip(inputs, sequences, strict=True):
        expected = int(encoder.get_feat_lengths(item.prepared.shape[0]))
        if features.shape[0] != expected:
            found = f"{features.shape[0]} rows of {item.utterance.utterance_id!r}"
            raise RuntimeError(f"{type(encoder).__name__}.get_feat_lengths promised {expected}, found {found}")
        if not np.isfinite(features).all():
            writer.reject((item.utterance, "non_finite_features", "the encoder gave NaN or infinity"))
            continue
        values = _to_dtype(features, writer.dtype, item.utterance.utterance_id)
        rows.append(
            Row(item.utterance.utterance_id, values, item.num_inputs, item.input_sha256, json.dumps(item.source))
        )
    return rows


def encode(prepared: list[torch.Tensor], encoder: Encoder, device: torch.device) -> list[np.ndarray[Any, Any]]:
    """Encode prepared inputs into float32 arrays (T_i, D); empty ones into no rows. A full GPU halves the batch."""
    results = [np.zeros((0, encoder.dim), np.float32) for _ in prepared]
    spoken = [i for i, item in enumerate(prepared) if item.shape[0]]
    if not spoken:
        return results
    try:
        with torch.inference_mode():
            output = encoder(Ragged.from_sequences([prepared[i] for i in spoken]).to(device))
            sequences = [sequence.float().cpu().numpy() for sequence in output.split()]
    except torch.OutOfMemoryError as error:
        if len(spoken) == 1:
            raise InputError(f"{device} has too little memory for one utterance; use --device cpu") from error
        torch.cuda.empty_cache()
        half = len(prepared) // 2
        return encode(prepared[:half], encoder, device) + encode(prepared[half:], encoder, device)
    for i, sequence in zip(spoken, sequences, strict=True):
        results[i] = sequence
    return results


def _to_dtype(features: np.ndarray[Any, Any], dtype: np.dtype[Any], utterance_id: str) -> np.ndarray[Any, Any]:
    greatest = float(np.abs(features).max(initial=0.0))
    if greatest > float(np.finfo(dtype).max):
        raise InputError(
            f"{utterance_id!r}: features must fit into fp16 (at most 65504), found {greatest:.6g}; "
            "extract with --store-dtype fp32"
        )
    return features.astype(dtype)


@contextmanager
def exact_matmul() -> Iterator[None]:
    """Turn TF32 off: a GPU would otherwise round float32 products to 10 bits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def as_json(result: StoreResult) -> dict[str, Any]:
    """Return a result as a JSON object."""
    return asdict(result)
