"""Setup of a training: resolved options, labelled data, features, and the run's configuration."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import torch

from features.audit.check import Check
from features.config import SPLITS, Options
from features.device import resolve_device
from features.errors import InputError, UsageError
from features.manifests.folds import find_folds, read_fold
from features.manifests.manifest import Utterance, read_manifests
from features.progress import SILENT, Reporter
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.data_check import check_training_data
from mervn.data.labels import apply_labels, emotions_of, task_label
from mervn.data.split import Split, count_empty
from mervn.data.stored_split import StoredSplit, load_split
from mervn.data.streams import Stream, modality_of, open_streams
from mervn.model.custom_module import CustomModule, loss_spec, read_modules
from mervn.model.head_modules import HeadModules, head_modules
from mervn.model.losses import require_one_correction
from mervn.registry import LATER_OPTIONS, LINEAR_POOLING, FusionSpec, LossSpec
from mervn.run_folder import RunConfig
from mervn.training.optimization import resolve_amp
from mervn.unread_options import refuse_unread, unread_options, without_unread

TrainingT = TypeVar("TrainingT", bound=TrainingOptions)


@dataclass(frozen=True)
class Resolved(Generic[TrainingT]):
    """Resolved options: every value that depends on the machine or on other options is set."""

    options: TrainingT
    """`amp` and `batch_size` are set; options without effect have their defaults."""
    unread: frozenset[str]
    """Names of the options without effect; they are not part of the configuration.

    The pooling always is: a fusion that reads none has its own."""
    modules: HeadModules
    """Fusion and poolings of the head."""
    loss: LossSpec
    custom_modules: Mapping[str, CustomModule]
    """Custom modules (the user's code), by role, as their files were when the command started."""
    device: torch.device

    @property
    def fusion(self) -> FusionSpec:
        """The fusion of the head."""
        return self.modules.fusion

    def with_options(self, **changes: Any) -> Resolved[TrainingT]:
        """Return a copy with changed options that nothing else depends on, such as the seed."""
        return replace(self, options=self.options.model_copy(update=changes))


def resolve(
    options: TrainingT,
    device: torch.device,
    given: Collection[str] | None = None,
    custom: Mapping[str, CustomModule] | None = None,
) -> Resolved[TrainingT]:
    """Resolve options; UsageError for options that contradict each other or have no effect.

    `given` names the options that the user gave, if `options` were changed since. `custom` are the
    custom modules that the options name, by role; by default, their files are read.
    """
    if custom is None:
        custom = read_modules(options)
    modules, loss = head_modules(options, custom), loss_spec(options.loss, custom)
    unread = unread_options(options, modules.fusion, loss)
    refuse_unread(unread, options.given if given is None else given)
    # resolve what depends on the machine, so that config.json records the actual values
    amp, batch_size = resolve_amp(options.amp, device), options.utterances_per_batch
    resolved = without_unread(options, unread).model_copy(update={"amp": amp, "batch_size": batch_size})
    if modules.fusion.linear:
        resolved = resolved.model_copy(update={"pooling": LINEAR_POOLING})
    require_one_correction(loss, resolved)
    read = {role: module for role, module in custom.items() if role not in unread}
    return Resolved(resolved, frozenset(unread) - {"pooling"}, modules, loss, read, device)


class Sources(TypedDict):
    """The entries of `inputs` in config.json that name the manifests, and the folds if any."""

    manifests: Mapping[str, str]
    """Hash of the manifest of each split."""
    folds: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True)
class LabelledData:
    """Utterances of train and valid with the labels of the task, and where they were read from."""

    utterances: Mapping[str, Sequence[Utterance]]
    labels: list[str]
    dropped: Mapping[str, Mapping[str, int]]
    """Number of utterances left out by --drop-label, by split and label."""
    sources: Sources
    fold_file: Path | None


@dataclass(frozen=True)
class StoredData:
    """Train and valid with their stored features; opened once, for any number of seeds."""

    folder: Path
    labelled: LabelledData
    streams: Mapping[str, Stream]
    splits: Mapping[str, StoredSplit]
    check: Check | None = None
    """Quick check of the manifests; None if it failed."""

    @property
    def encoders(self) -> dict[str, str]:
        """The name of the encoder of each stream."""
        return {name: stream.encoder for name, stream in self.streams.items()}


def resolve_head_options(options: TrainHeadOptions) -> Resolved[TrainHeadOptions]:
    """Resolve the options of `train-head`, including the device."""
    return resolve(options, resolve_device(options.device, float64=True))


def open_stored_data(resolved: Resolved[TrainHeadOptions], folder: Path, reporter: Reporter) -> StoredData:
    """Read train and valid and open their features; raises the errors of `train_head`."""
    options = resolved.options
    labelled = read_labelled(options, folder, reporter)
    streams = open_streams(options, folder, resolved.fusion.streams)
    splits = {}
    for name, utterances in labelled.utterances.items():
        splits[name] = load_split(
            name, utterances, streams, labelled.labels,
            allow_missing=options.allow_missing, verify_inputs=options.verify_inputs, reporter=reporter,
        )  # fmt: skip
    refuse_empty_stream(splits, options.fusion)
    for stream in streams.values():
        for store in stream.stores:
            reporter.say(f"{stream.name} features: {store.path} ({stream.weights})")
    for name, counts in labelled.dropped.items():
        if counts:
            parts = [f"{count} {label}" for label, count in counts.items()]
            reporter.say(f"{name}: left out {', '.join(parts)}")
    check = check_training_data(labelled.utterances, folder, options.features_dir, reporter)
    return StoredData(folder, labelled, streams, splits, check)


def read_labelled(options: TrainHeadOptions | FinetuneOptions, data: Path, reporter: Reporter = SILENT) -> LabelledData:
    """Read train and valid with the labels of the task.

    InputError if train has fewer than two labels.
    """
    utterances, sources, fold_file = _read(options, data, reporter)
    labelled = apply_labels(utterances, options)
    labels = sorted(emotions_of(labelled.utterances["train"]))
    if len(labels) < 2:
        where = f"train of fold {options.fold}" if options.fold else "train.jsonl"
        raise InputError(f"{where} must hold at least two emotions, found {', '.join(labels)}")
    return LabelledData(labelled.utterances, labels, labelled.dropped, sources, fold_file)


def _read(
    options: TrainHeadOptions | FinetuneOptions, data: Path, reporter: Reporter
) -> tuple[Mapping[str, Sequence[Utterance]], Sources, Path | None]:
    """Return train and valid, the hashes of their files, and the fold file or None."""
    root = options.audio_root
    if options.fold is None:
        if options.fold_file is not None:
            raise UsageError(f"--fold-file {options.fold_file} needs --fold K or --fold all")
        manifests = read_manifests(
            data, SPLITS[:2], audio_root=root, check_audio=False, task_label=task_label(options), reporter=reporter
        )
        return manifests, {"manifests": manifests.sha256}, None
    if options.fold == "all":
        raise ValueError("fold must be a number here, found 'all'; train_series trains on all folds")
    folds = find_folds(data, options.fold_file)
    kept, hashes = read_fold(data, folds, int(options.fold), SPLITS[:2], root, task_label(options), reporter)
    return kept, {"manifests": hashes, "folds": folds.as_json()}, folds.path


def refuse_empty_stream(splits: Mapping[str, Split], fusion: str) -> None:
    """Raise UsageError if one of several streams is empty for all utterances of a split."""
    for split in splits.values():
        for name, count in count_empty(split).items():
            if count == len(split) and len(split.lengths) > 1:
                other = next(stream for stream in split.lengths if modality_of(stream) != modality_of(name))
                raise UsageError(
                    f"--fusion {fusion} needs {name}, but none of the {len(split)} utterances of "
                    f"{split.name} has it; use --fusion {modality_of(other)}"
                )


def recorded_options(resolved: Resolved[Any], paths: set[str], excluded: set[str]) -> dict[str, Any]:
    """Return the options that config.json records: those with an effect, and `paths` absolute."""
    options: Options = resolved.options
    unset = {name for name in LATER_OPTIONS if getattr(options, name) == type(options).model_fields[name].default}
    recorded: dict[str, Any] = json.loads(options.model_dump_json(exclude={*resolved.unread, *excluded, *unset}))
    for key in recorded.keys() & paths:
        recorded[key] = str(Path(recorded[key]).resolve()) if recorded[key] else None
    for role, module in resolved.custom_modules.items():
        recorded[role] = f"{module.path.resolve()}:{module.name}"
    recorded["output"] = None  # a run may be moved
    return recorded


def recorded_modules(resolved: Resolved[Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the entry `modules` of the inputs in config.json; nothing without custom modules."""
    if not resolved.custom_modules:
        return {}
    return {"modules": {role: module.as_json() for role, module in resolved.custom_modules.items()}}


def configuration(resolved: Resolved[TrainHeadOptions], data: StoredData) -> RunConfig:
    """Return the configuration of a run of `train-head`."""
    recorded = recorded_options(resolved, {"features_dir", "audio_root", "audio_store", "text_store"}, set())
    recorded["data"] = str(data.folder.resolve())
    recorded["fold_file"] = str(data.labelled.fold_file.resolve()) if data.labelled.fold_file else None
    stores, shapes, models = {}, {}, {}  # by stream
    for name, stream in data.streams.items():
        stores[name], shapes[name], models[name] = stream.hashes, stream.shape.as_json(), stream.model
    inputs = {
        **data.labelled.sources,
        "stores": stores,
        "features": {name: split.inputs_sha256 for name, split in data.splits.items()},
        **recorded_modules(resolved),
    }
    return RunConfig("train-head", recorded, data.labelled.labels, inputs, shapes, models)
