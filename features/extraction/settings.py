"""Settings of an extraction, and the identity and provenance of the stores that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from features.audio.resampling import SAMPLE_RATE
from features.config import EncodeOptions
from features.cpu_threads import set_threads
from features.encoders.base import Encoder, load_encoder
from features.encoders.layer_means import LayerMeans
from features.encoders.pretrained import CONFIG_FILE
from features.encoders.selector import DEFAULT_SETTINGS, EncoderSettings, Layer, Selector
from features.environment import Machine, machine, now, package_versions
from features.store.identity import StoreIdentity, StoreInfo
from features.store.index import features_folder
from features.store.models import KEPT_ENCODER, record_model
from features.store.writer import disk_error


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of an extraction, besides the encoder."""

    features_dir: Path
    store_dtype: str = "fp16"
    """Precision of the features on disk: fp16 or fp32."""
    encoder_precision: str = "fp32"
    """Precision in which the encoder computes: fp32 or bf16."""
    encoder: EncoderSettings = DEFAULT_SETTINGS
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: a GPU if available."""
    batch_seconds: float | None = None
    """Padded seconds of audio per batch; None for the value recorded in the store, or else the
    device's default."""
    update: bool = False
    """Encode utterances again whose input has changed, instead of raising an error."""
    verify_inputs: bool = False
    """Decode the audio of stored utterances and compare its hash."""
    retry_rejected: bool = False
    """Try rejected utterances again, even if their input is unchanged."""
    plan_only: bool = False
    """Report what the extraction would do, and write nothing."""
    format: str | None = None
    """hdf5 or zarr; None for the format of the store's existing parts."""
    shard: tuple[int, int] = (1, 1)
    """(I, N): encode only the I-th of N shards of the units."""
    engine: str = "local"
    """local or ray."""
    workers: int | None = None
    """Number of processes that decode audio, with the engine ray of actors; None: by cores and device."""
    ray_address: str | None = None
    """A running Ray cluster, auto or HOST:PORT; None: start one on this machine."""
    threads: int | None = None
    """Number of CPU threads; None: PyTorch's choice."""
    layer_means: bool = False
    """Store the mean over time of each layer instead of sequences."""


def settings_from(options: EncodeOptions, data: Path) -> ExtractSettings:
    """Return the settings for command line options.

    Also sets the number of CPU threads of this process.
    """
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


def store_identity(encoder: Encoder, selector: Selector, layer: Layer, settings: ExtractSettings) -> StoreIdentity:
    """Return the identity of the store of one layer."""
    return StoreIdentity(
        modality=encoder.modality,
        encoder=encoder.name,
        weights_sha256=encoder.weights_sha256,
        config=encoder.config,
        layer=layer,
        dim=encoder.dim,
        encoder_precision=settings.encoder_precision,
        store_dtype=settings.store_dtype,
        numerics_version=encoder.numerics_version,
        sample_rate=SAMPLE_RATE if encoder.modality == "audio" else None,
    )


def open_encoder(selector: Selector, settings: ExtractSettings) -> Encoder:
    """Load the encoder of an extraction."""
    encoder = load_encoder(selector, settings.encoder)
    return LayerMeans(encoder) if settings.layer_means else encoder


class Provenance(TypedDict):
    """Provenance of a new store: the content of store.json besides the identity."""

    selector: str
    model: str | None
    model_name: str
    models: list[dict[str, str | None]]
    """What the selector was resolved to; later extractions can add others with the same weights."""
    weights: str
    code: NotRequired[Mapping[str, str]]
    """The file of a custom encoder, and its hash."""
    num_layers: int
    device: str
    created: str
    versions: dict[str, str]
    machine: Machine


def provenance(selector: Selector, encoder: Encoder, device: torch.device) -> Provenance:
    """Return the provenance of a store that is created now with this encoder."""
    found: Provenance = {
        "selector": str(selector),
        "model": selector.model or selector.spec.model,
        "model_name": encoder.model_name,
        "models": [encoder.source.as_json()],
        "weights": encoder.weights_note,
        "num_layers": encoder.num_layers,
        "device": str(device),
        "created": now(),
        "versions": package_versions(),
        "machine": machine(),
    }
    if encoder.code_record is not None:
        found["code"] = encoder.code_record
    return found


def record_encoder(info: StoreInfo, encoder: Encoder) -> StoreInfo:
    """Record a store's model and its fine-tuning data, and save its weights if they are random."""
    try:
        if encoder.fine_tuning is not None:
            encoder.fine_tuning.save(info.path)
        # random weights have no other copy; without one, the store could not be extended
        if encoder.is_random and not (info.path / KEPT_ENCODER / CONFIG_FILE).exists():
            encoder.save(info.path / KEPT_ENCODER)
        return record_model(info, encoder.source)
    except OSError as error:
        raise disk_error(info, error) from error
