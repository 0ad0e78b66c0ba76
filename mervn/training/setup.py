"""What training needs before it starts: data, labels and features, read and checked, and their configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from features.config import SPLITS
from features.device import resolve_device
from features.errors import InputError, UsageError
from features.manifests.folds import find_folds, read_fold
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Say
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.labels import apply_labels, task_label
from mervn.data.stored_split import Split, load_split
from mervn.data.streams import Stream, modality_of, open_streams
from mervn.data.waveform_split import LiveSplit
from mervn.model.custom_module import fusion_spec, own_modules
from mervn.model.head import pooling_names
from mervn.run_folder import RunConfig
from mervn.training.optimization import resolve_amp
from mervn.unread_options import refuse_unread, unread_options, without_unread


@dataclass(frozen=True)
class Prepared:
    """What training needs, opened once for any number of seeds."""

    data: Path
    labels: list[str]
    streams: Mapping[str, Stream]
    splits: Mapping[str, Split]
    dropped: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, Any]
    """Hashes of the files that say which utterances there are."""
    fold_file: Path | None


@dataclass(frozen=True)
class Labelled:
    """The utterances of train and valid with the labels of the task, and what they were read from."""

    utterances: Mapping[str, list[Utterance]]
    labels: list[str]
    dropped: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, Any]
    """Hashes of the files that say which utterances there are."""
    fold_file: Path | None


TrainingT = TypeVar("TrainingT", bound=TrainingOptions)


def resolved(options: TrainingT) -> TrainingT:
    """Return the options with what depends on the machine, and on other options, decided; what is unread is unset."""
    options = without_unread(options)
    amp = resolve_amp(options.amp, resolve_device(str(getattr(options, "device", "auto")), float64=True))
    return options.model_copy(update={"amp": amp, "batch_size": options.utterances_per_batch})


def encoders_of(prepared: Prepared) -> dict[str, str]:
    """Return the encoder of each stream."""
    return {name: stream.encoder for name, stream in prepared.streams.items()}


def open_training(options: TrainHeadOptions, data: Path, say: Say) -> Prepared:
    """Read train and valid and open their features; the errors of `train_head`."""
    pooling_names(options.fusion, options.pooling)  # refuses what does not fit before any work
    refuse_unread(options, options.given)
    resolved(options)
    labelled = read_labelled(options, data)
    labels = labelled.labels
    streams = open_streams(without_unread(options), data, fusion_spec(options.fusion).streams)
    splits = {name: _load(name, kept, streams, labels, options, say) for name, kept in labelled.utterances.items()}
    refuse_silent(splits, options.fusion)
    for stream in streams.values():
        for store in stream.stores:
            say(f"{stream.name} features: {store.path} ({stream.weights})")
    for name, counts in labelled.dropped.items():
        if counts:
            say(f"{name}: left out " + ", ".join(f"{count} {label}" for label, count in counts.items()))
    return Prepared(data, labels, streams, splits, labelled.dropped, labelled.sources, labelled.fold_file)


def read_labelled(options: TrainHeadOptions | FinetuneOptions, data: Path) -> Labelled:
    """Read train and valid with the labels of the task; InputError where fewer than two are left of train."""
    rows, sources, fold_file = _read(options, data)
    labelled = apply_labels(rows, options)
    labels = sorted({str(utterance.emotion) for utterance in labelled.utterances["train"]})
    if len(labels) < 2:
        where = f"train of fold {options.fold}" if options.fold else "train.jsonl"
        raise InputError(f"{where} must hold at least two emotions, found {', '.join(labels)}")
    return Labelled(labelled.utterances, labels, labelled.dropped, sources, fold_file)


def _read(
    options: TrainHeadOptions | FinetuneOptions, data: Path
) -> tuple[dict[str, list[Utterance]], dict[str, Any], Path | None]:
    """Return train and valid, hashes of the files they were read from, and the file of folds if there is one."""
    root = options.audio_root
    if options.fold is None:
        if options.fold_file is not None:
            raise UsageError(f"--fold-file {options.fold_file} needs --fold, K or all")
        rows = read_manifests(data, SPLITS[:2], audio_root=root, check_audio=False, task_label=task_label(options))
        return rows, {"manifests": rows.sha256}, None
    if options.fold == "all":
        raise ValueError("one fold at a time; train_series takes all of them")
    folds = find_folds(data, options.fold_file)
    kept, hashes = read_fold(data, folds, int(options.fold), SPLITS[:2], root, task_label(options))
    return kept, {"manifests": hashes, "folds": folds.as_json()}, folds.path


def refuse_silent(splits: Mapping[str, Split] | Mapping[str, LiveSplit], fusion: str) -> None:
    """Raise UsageError where a fusion of two modalities would learn from one alone."""
    for split in splits.values():
        for name, count in split.count_empty().items():
            if count == len(split) and len(split.rows) > 1:
                other = next(stream for stream in split.rows if modality_of(stream) != modality_of(name))
                raise UsageError(
                    f"--fusion {fusion} needs {name}, but none of the {len(split)} utterances of {split.name} "
                    f"has any; use --fusion {modality_of(other)}"
                )


def _load(
    name: str,
    rows: Sequence[Utterance],
    streams: Mapping[str, Stream],
    labels: Sequence[str],
    options: TrainHeadOptions,
    say: Say,
) -> Split:
    return load_split(
        name, rows, streams, labels,
        allow_missing=options.allow_missing, verify_inputs=options.verify_inputs, say=say,
    )  # fmt: skip


def configuration(options: TrainHeadOptions, prepared: Prepared) -> RunConfig:
    """Return what a run of these options is."""
    data, streams, splits = prepared.data, prepared.streams, prepared.splits
    known = json.loads(options.model_dump_json(exclude=set(unread_options(options))))
    for key in known.keys() & {"features_dir", "audio_root", "audio_store", "text_store"}:
        known[key] = str(Path(known[key]).resolve()) if known[key] else None
    own = own_modules(options)
    known |= {role: f"{module.path.resolve()}:{module.name}" for role, module in own.items()}
    known["data"] = str(data.resolve())
    known["output"] = None  # the folder itself says where it is
    known["fold_file"] = str(prepared.fold_file.resolve()) if prepared.fold_file else None
    inputs = {
        **prepared.sources,
        "stores": {name: [store.info.hash for store in stream.stores] for name, stream in streams.items()},
        "features": {name: split.features_sha256 for name, split in splits.items()},
    }
    if own:
        inputs["modules"] = {role: module.as_json() for role, module in own.items()}
    shapes = {name: stream.shape.as_json() for name, stream in streams.items()}
    models = {name: stream.model for name, stream in streams.items()}
    return RunConfig("train-head", known, prepared.labels, inputs, shapes, models)
