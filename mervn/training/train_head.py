"""`train-head`: train a fusion head on stored features and write a finished run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from features.progress import SILENT, Reporter, WithoutBars
from features.torch_seed import seeded
from mervn.config import TrainHeadOptions
from mervn.data.saved_check import save_check
from mervn.data.split import count_empty
from mervn.data.stored_sequences import Sequences, make_resident
from mervn.data.stored_split import StoredSplit
from mervn.model.custom_module import copy_modules
from mervn.model.head import Head, build_head
from mervn.run_folder import RunConfig, RunMetrics, default_folder, find_run, locked, prepare, read_metrics
from mervn.training.linear_fit import LinearFit
from mervn.training.optimization import deterministic
from mervn.training.results import (
    RunResult,
    Trained,
    environment,
    fit_best,
    layer_weights,
    score_best,
    write_results,
    write_weights,
)
from mervn.training.setup import Resolved, StoredData, configuration, open_stored_data, resolve_head_options
from mervn.training.tensorboard import require_tensorboard, write_history
from mervn.training.trainer import Trainer, TrainingData


def train_head(options: TrainHeadOptions, data: Path, reporter: Reporter = SILENT) -> RunResult:
    """Train a head on the train split and select its best epoch on valid.

    The test split is never read. Calling it again with the same configuration returns the existing
    result, or resumes an interrupted run. Raises UsageError for contradictory options, InputError
    for data that cannot be used.
    """
    resolved = resolve_head_options(options)
    return train_on(open_stored_data(resolved, data, reporter), resolved, reporter)


def train_on(data: StoredData, resolved: Resolved[TrainHeadOptions], reporter: Reporter) -> RunResult:
    """Train one head on opened features, or return the result of the same configuration."""
    options = resolved.options
    if options.tensorboard:
        require_tensorboard()
    config = configuration(resolved, data)
    run = options.output or find_run(default_folder(config, data.encoders), config)
    with locked(run):
        if prepare(run, config, options.force):
            reporter.say(f"complete already: {run} (--force trains again)")
            if options.tensorboard:
                write_history(run, reporter)
            return RunResult(run, read_metrics(run), trained=False)
        save_check(run, data.check)
        copy_modules(run, resolved.custom_modules)
        _report_empty(data.splits, resolved, reporter)
        sequences: list[Sequences] = []
        for split in data.splits.values():
            sequences += chain.from_iterable(split.streams.values())
        make_resident(sequences, resolved.device, options.memory_gb, reporter)
        with deterministic(options.deterministic):
            metrics = _train(run, resolved, config, data, reporter)
    return RunResult(run, metrics, trained=True)


def _report_empty(splits: Mapping[str, StoredSplit], resolved: Resolved[TrainHeadOptions], reporter: Reporter) -> None:
    """Report how many utterances have no frames in a stream, such as those without a transcript."""
    for split in splits.values():
        for modality, count in count_empty(split).items():
            if count and (resolved.fusion.linear or resolved.options.missing == "token"):
                empty = "transcripts are missing or empty" if modality == "text" else f"{modality} streams are empty"
                what = "the mean of train" if resolved.fusion.linear else "a learned token"
                reporter.say(f"{split.name}: {count} of {len(split)} {empty}; {what} replaces each of them")
            elif count:
                warnings.warn(
                    f"{split.name}: {count} of {len(split)} {modality} streams are empty; with "
                    "--missing none, no query attends to them, and pooling them gives zeros",
                    stacklevel=2,
                )


def _train(
    run: Path, resolved: Resolved[TrainHeadOptions], config: RunConfig, data: StoredData, reporter: Reporter
) -> RunMetrics:
    """Train and write the run; return the content of metrics.json."""
    started = time.perf_counter()
    options, device, labels, streams = resolved.options, resolved.device, data.labelled.labels, data.streams
    shapes = {name: stream.shape for name, stream in streams.items()}
    with seeded(device, options.seed):  # initialisation and dropout
        head = build_head(options, shapes, len(labels), resolved.modules).to(device)
        training_data = TrainingData(data.splits["train"], data.splits["valid"], labels)
        trained, strength = _fit(run, head, training_data, resolved, WithoutBars(reporter))
    origins = {name: stream.weights for name, stream in streams.items()}
    scores = score_best(trained, origins, layer_weights(head, shapes), data.labelled.dropped)
    if strength is not None:
        scores.metrics["C"] = strength
    write_weights(run, head)
    stores = {}
    for name, stream in streams.items():
        stores[name] = [{"path": str(store.path.resolve()), **store.info.provenance} for store in stream.stores]
    write_results(run, trained, scores, environment(config, trained, stores, time.perf_counter() - started))
    return scores.metrics


def _fit(
    run: Path, head: Head, data: TrainingData, resolved: Resolved[TrainHeadOptions], reporter: Reporter
) -> tuple[Trained, float | None]:
    """Train or fit a head and load its best weights.

    Also return the `C` of a linear head; None for any other.
    """
    if resolved.fusion.linear:
        fit = LinearFit(head, data, resolved.options, resolved.device, reporter)
        fit.fit(run)
        return fit, fit.strength
    trainer = Trainer(head, data, resolved, reporter=reporter)
    fit_best(trainer, run, resolved.options)
    return trainer, None
