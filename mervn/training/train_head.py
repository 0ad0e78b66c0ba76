"""`train-head`: from manifests and stores to a run with a trained head."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from features.device import resolve_device
from features.progress import Say
from features.torch_seed import seeded
from mervn.config import TrainHeadOptions
from mervn.data.stored_sequences import make_resident
from mervn.data.stored_split import Split
from mervn.model.custom_module import copy_modules
from mervn.model.head import build_head
from mervn.run_folder import RunConfig, default_folder, find_run, locked, prepare, read_metrics
from mervn.training.optimization import deterministic
from mervn.training.results import RunResult, environment, fit_best, score, write_outcome, write_weights
from mervn.training.setup import Prepared, configuration, encoders_of, open_training, resolved
from mervn.training.tensorboard import require_tensorboard, write_history
from mervn.training.trainer import Report, Trainer


def train_head(options: TrainHeadOptions, data: Path, say: Say, report: Report) -> RunResult:
    """Train the head that the options describe on the train split and select its epoch on valid.

    The test split is never read. The same configuration again returns the result that is there, or goes on with what
    was interrupted. Raises UsageError for contradictory options, InputError for data that cannot be used.
    """
    return train_prepared(options, open_training(options, data, say), say, report)


def train_prepared(options: TrainHeadOptions, prepared: Prepared, say: Say, report: Report) -> RunResult:
    """Train one head, or return the complete run that is there."""
    device = resolve_device(options.device, float64=True)
    options = resolved(options)
    if options.tensorboard:
        require_tensorboard()
    config = configuration(options, prepared)
    run = options.output or find_run(default_folder(config, encoders_of(prepared)), config)
    with locked(run):
        if prepare(run, config, options.force):
            say(f"complete already: {run} (--force trains again)")
            if options.tensorboard:
                write_history(run, say)
            return RunResult(run, read_metrics(run), trained=False)
        options = copy_modules(run, options, config.inputs.get("modules", {}))
        _report_empty(prepared.splits, options, say)
        layers = [each for split in prepared.splits.values() for each in split.streams.values()]
        make_resident([one for each in layers for one in each], device, options.memory_gb, say)
        with deterministic(options.deterministic):
            metrics = _train(run, options, config, prepared, device, report)
    return RunResult(run, metrics, trained=True)


def _report_empty(splits: Mapping[str, Split], options: TrainHeadOptions, say: Say) -> None:
    """Count the utterances that have nothing in a stream, such as no transcript."""
    for split in splits.values():
        for modality, count in split.count_empty().items():
            if count and options.missing == "token":
                what = "transcripts are missing or empty" if modality == "text" else f"{modality} streams are empty"
                say(f"{split.name}: {count} of {len(split)} {what}; a learned token stands for each")
            elif count:
                warnings.warn(
                    f"{split.name}: {count} of {len(split)} {modality} streams are empty; with --missing none nothing "
                    "attends to them and pooling over them gives zeros",
                    stacklevel=2,
                )


def _train(
    run: Path,
    options: TrainHeadOptions,
    config: RunConfig,
    prepared: Prepared,
    device: torch.device,
    report: Report,
) -> dict[str, Any]:
    """Train and write the run."""
    started = time.perf_counter()
    splits, streams = prepared.splits, prepared.streams
    shapes = {name: stream.shape for name, stream in streams.items()}
    with seeded(device, options.seed):
        head = build_head(options, shapes, len(prepared.labels)).to(device)
        trainer = Trainer(head, splits["train"], splits["valid"], prepared.labels, options, device)
        fit_best(trainer, run, options, report)
    found = score(trainer, shapes, {name: stream.weights for name, stream in streams.items()}, prepared.dropped)
    write_weights(run, head)
    stores = {
        name: [{"path": str(store.path.resolve()), **store.info.provenance} for store in stream.stores]
        for name, stream in streams.items()
    }
    write_outcome(run, trainer, found, environment(config, trainer, stores, time.perf_counter() - started))
    return found.metrics
