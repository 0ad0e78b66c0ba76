"""`mervn store import`: features that another program computed become a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from features.audio.resampling import SAMPLE_RATE
from features.command_lines import features_folder, import_flags
from features.encoders import ENCODERS
from features.encoders.model_source import ModelSource
from features.encoders.selector import ALIASES
from features.environment import machine, now, package_versions
from features.errors import InputError, UsageError
from features.extraction.feature_files import Array, open_features
from features.extraction.import_options import StoreImportOptions
from features.extraction.imported import Checked, check_features, stored_values
from features.manifests.manifest import read_manifests
from features.progress import Reporter
from features.signals import check_interrupted, interruptible
from features.store.claims import Claims
from features.store.identity import StoreIdentity, StoreInfo, create_store
from features.store.index import list_stores
from features.store.models import MODELS
from features.store.part import crc32
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter, disk_error

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
UNIT = "import"
"""Claim of a process that imports into the store."""
BATCH = 64
"""Utterances added at once; Ctrl-C commits the finished ones."""


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    info: StoreInfo
    checked: Checked
    written: int
    unused: list[str]
    """Ids of features that belong to no utterance."""
    others: list[Path]
    """Other stores with the same name and layer, which a selector would also match."""


def import_features(source: Path, options: StoreImportOptions, data: Path, reporter: Reporter) -> Imported:
    """Check features against the manifests of a data folder and write them to a store.

    `source` is a folder of .npy files, (T, D) or (D,), named by utterance id, or an HDF5 file or
    Zarr group (see `PackedArrays`). Raises UsageError for an invalid name, and InputError that lists
    all faults of the features; nothing is written then. Interrupted imports resume.
    """
    _check_name(options)
    features = open_features(source)
    audio = options.modality == "audio"
    manifests = read_manifests(
        data, options.splits, audio_root=options.audio_root, require_emotion=False, check_audio=audio,
        reporter=reporter,
    )  # fmt: skip
    utterances = list(chain.from_iterable(manifests.values()))
    checked = check_features(features, utterances, options, source, reporter)
    identity = _identity(options, checked)
    folder = features_folder(options.features_dir, data)
    info = create_store(folder, identity, _provenance(source, options), "imported")
    written = _write(info, features, checked, options, reporter)
    unused = sorted(features.keys() - {one.utterance_id for one in utterances})
    others = []
    for other in list_stores(folder, identity.modality):
        if (other.encoder, other.identity.layer) == (info.encoder, identity.layer) and other.path != info.path:
            others.append(other.path)
    return Imported(info, checked, written, unused, others)


def _check_name(options: StoreImportOptions) -> None:
    """Raise UsageError if the modality or the name is missing or cannot be used in a selector."""
    if options.modality is None or options.name is None:
        raise UsageError("--modality audio|text and --name NAME must be given")
    taken = {*ENCODERS["audio"], *ENCODERS["text"], *ALIASES}
    if NAME.fullmatch(options.name) is None or options.name in taken:
        raise UsageError(
            f"--name must begin with a letter, hold only letters, digits, '_', '-' and '.', and must not be one "
            f"of the encoders {', '.join(sorted(taken))}; found {options.name!r}"
        )


def _identity(options: StoreImportOptions, checked: Checked) -> StoreIdentity:
    """Return the identity of the store: it contains the hash of all features and their inputs."""
    stride, centre = SAMPLE_RATE / options.hz if options.hz else 1.0, 0.0
    if options.hz:
        centre = stride / 2 if options.centre is None else options.centre * SAMPLE_RATE
    config = {"imported": True, "vectors": checked.vectors}
    times = {"stride": _whole(stride), "centre": centre} if options.modality == "audio" else {}
    return StoreIdentity(
        modality=str(options.modality),
        encoder=str(options.name),
        weights_sha256=checked.sha256,
        config={**config, **times},
        layer="last" if options.layer is None else options.layer,
        dim=checked.dim,
        encoder_precision="fp32",
        store_dtype=checked.store_dtype,
        numerics_version=1,
        sample_rate=SAMPLE_RATE if options.modality == "audio" else None,
    )


def _whole(number: float) -> float:
    """Return a whole number as an int: the shape of built-in encoders has ints."""
    return int(number) if number.is_integer() else number


def _provenance(source: Path, options: StoreImportOptions) -> dict[str, object]:
    return {
        "selector": str(options.name),
        "model": None,
        "model_name": "imported",
        MODELS: [ModelSource().as_json()],
        "weights": "imported",
        "num_layers": options.layer or 0,
        "import": [str(source.resolve()), *import_flags(options)],
        "created": now(),
        "versions": package_versions(),
        "machine": machine(),
    }


def _write(
    info: StoreInfo, features: Mapping[str, Array], checked: Checked, options: StoreImportOptions, reporter: Reporter
) -> int:
    """Write what the store lacks; return the number of utterances.

    Raises InputError if another process imports the same, or if the features have changed since
    they were checked.
    """
    store = FeatureStore(info.path)
    wanted = [name for name in checked.inputs if name not in store]
    bar = reporter.progress(len(wanted), 0, what="importing")
    try:
        with interruptible(), Claims([info.path]) as claims:
            if not claims.take(UNIT):
                raise InputError(f"{claims.describe_holders([UNIT])} is importing into {info.path}: wait for it")
            with StoreWriter(info, kind=options.format or "hdf5", token=claims.token) as writer:
                for first in range(0, len(wanted), BATCH):
                    check_interrupted()
                    batch = []
                    for name in wanted[first : first + BATCH]:
                        values = stored_values(features, name, checked)
                        if crc32(values) != checked.checksums[name]:
                            raise InputError(f"the features of {name!r} changed during the import: import them again")
                        batch.append(replace(checked.inputs[name], values=values))
                    writer.add(batch)
                    bar.update(len(batch))
            claims.release(UNIT)
    except OSError as error:
        raise disk_error(info, error) from error
    finally:
        bar.close()
    return len(wanted)
