"""`train-head`: from manifests and stores to a run with a trained head."""

from __future__ import annotations

import json
import subprocess
import time
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from features.encode import resolve_device
from features.errors import InputError
from features.store.provenance import machine, now, package_versions
from mervn.config import TrainHeadOptions
from mervn.dataset import Split
from mervn.metrics import compute_metrics
from mervn.model import Head, LayerMix, build_head
from mervn.optimization import deterministic
from mervn.own_module import keep_own
from mervn.prediction import predict, prediction_rows
from mervn.prepared import Prepared, Say, configuration, encoders_of, open_training, resolved
from mervn.runs import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SCHEMA,
    RunConfig,
    default_folder,
    locked,
    prepare,
    write_json,
    write_jsonl,
)
from mervn.sequences import make_resident
from mervn.streams import Stream, StreamShape
from mervn.tensorboard import TensorBoard, require_tensorboard
from mervn.training import Report, Saving, Trainer


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it found on valid."""

    path: Path
    metrics: Mapping[str, Any]
    trained: bool
    """False where a complete run was there already."""


def train_head(options: TrainHeadOptions, data: Path, say: Say, report: Report) -> RunResult:
    """Train the head that the options describe on the train split and select its epoch on valid.

    The test split is never read. The same configuration again returns the result that is there, or goes on with what
    was interrupted. Raises UsageError for contradictory options, InputError for data that cannot be used.
    """
    return train_prepared(options, open_training(options, data, say), say, report)


def train_prepared(options: TrainHeadOptions, prepared: Prepared, say: Say, report: Report) -> RunResult:
    """Train one head, or return the complete run that is there."""
    device = resolve_device(options.device)
    options = resolved(options)
    if options.tensorboard:
        require_tensorboard()
    config = configuration(options, prepared)
    run = options.output or default_folder(config, encoders_of(prepared))
    with locked(run):
        if prepare(run, config, options.force):
            say(f"complete already: {run} (--force trains again)")
            return RunResult(run, json.loads((run / METRICS_FILE).read_text("utf-8")), trained=False)
        options = keep_own(run, options, config.inputs.get("modules", {}))
        _warn_empty(prepared.splits, options)
        layers = [each for split in prepared.splits.values() for each in split.streams.values()]
        make_resident([one for each in layers for one in each], device, options.memory_gb, say)
        with deterministic(options.deterministic):
            metrics = _train(run, options, config, prepared, device, report)
    return RunResult(run, metrics, trained=True)


def _warn_empty(splits: Mapping[str, Split], options: TrainHeadOptions) -> None:
    for split in splits.values():
        for modality, count in split.count_empty().items():
            if count and options.missing == "none":
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
    """Train and write the run; metrics.json comes last, for its existence means complete."""
    started = time.perf_counter()
    splits, labels, streams = prepared.splits, prepared.labels, prepared.streams
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        head = build_head(options, {name: stream.shape for name, stream in streams.items()}, len(labels)).to(device)
        trainer = Trainer(head, splits["train"], splits["valid"], labels, options, device)
        saving = Saving(options.checkpoint_every, options.checkpoint_steps, options.keep_checkpoints)
        with closing(TensorBoard(run / "tensorboard")) as board:
            trainer.fit(run, saving, [board.add, report] if options.tensorboard else [report])
    if trainer.best.weights is None:
        raise InputError("no epoch was trained: --epochs must be at least 1")
    head.load_state_dict(trainer.best.weights)
    valid = splits["valid"]
    probabilities = predict(head, valid, device)
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        "labels": labels,
        "selected_epoch": trainer.best.epoch,
        "missing": {name: len(split.missing) for name, split in splits.items()},
        "dropped": prepared.dropped,
        "features": {name: stream.weights for name, stream in streams.items()},
        "layer_weights": layer_weights(head, {name: stream.shape for name, stream in streams.items()}),
        "valid": {"missing": len(valid.missing), **compute_metrics(valid.targets, probabilities, labels)},
    }
    save_file({name: tensor.cpu() for name, tensor in head.state_dict().items()}, run / MODEL_FILE)
    write_jsonl(run / "predictions-valid.jsonl", prediction_rows(valid, probabilities, labels))
    seconds = time.perf_counter() - started
    write_json(run / ENVIRONMENT_FILE, environment(config, streams, device, head, seconds, trainer.next_epoch))
    write_json(run / METRICS_FILE, metrics)
    return metrics


def layer_weights(head: Head, shapes: Mapping[str, StreamShape]) -> dict[str, dict[str, float]]:
    """Return what the head learned to take of each layer, for the streams in which it mixes several."""
    weights: dict[str, dict[str, float]] = {}
    for name, mix in head.mixes.items():
        if isinstance(mix, LayerMix):
            weights[name] = dict(zip(shapes[name].layers, mix.weights().tolist(), strict=True))
    return weights


def environment(
    config: RunConfig,
    streams: Mapping[str, Stream],
    device: torch.device,
    head: torch.nn.Module,
    seconds: float,
    epochs: int,
) -> dict[str, Any]:
    """Return what environment.json says: where a run's numbers came from and what they cost."""
    return {
        "time": now(),
        "versions": package_versions(),
        "machine": machine(),
        "device": str(device),
        "commit": _commit(),
        "inputs": dict(config.inputs),
        "stores": {
            name: [{"path": str(store.path.resolve()), **store.info.provenance} for store in stream.stores]
            for name, stream in streams.items()
        },
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(seconds / max(1, epochs), 4),
    }


def _commit() -> str | None:
    """Return the git commit of the current folder, if it is in a repository."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
