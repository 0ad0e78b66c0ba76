"""Results of a training: the files of a complete run, such as its weights and metrics."""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from safetensors.torch import save

from features.atomic_files import write_atomically
from features.environment import Machine, machine, now, package_versions
from features.errors import InputError
from features.progress import Reporter
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.split import Split, count_empty
from mervn.data.streams import StreamShape
from mervn.distributed import Processes
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.predict import predict, prediction_entries
from mervn.model.head import Head, LayerMix
from mervn.model.trainable import Trainable, count_parameters
from mervn.run_folder import (
    ENVIRONMENT_FILE,
    METRICS_FILE,
    MODEL_FILE,
    SCHEMA,
    RunConfig,
    RunMetrics,
    write_json,
    write_jsonl,
)
from mervn.training.averaging import averaged_epochs
from mervn.training.checkpoint import CHECKPOINTS_FOLDER, BestEpoch, CheckpointSchedule
from mervn.training.tensorboard import TensorBoard
from mervn.training.trainer import Trainer


class Trained(Protocol):
    """A finished training with the best weights loaded: a `Trainer` or a `LinearFit`."""

    train: Split
    valid: Split
    labels: list[str]
    options: TrainingOptions
    device: torch.device
    processes: Processes
    reporter: Reporter
    best: BestEpoch
    next_epoch: int

    @property
    def model(self) -> Trainable:
        """The trained model."""


@dataclass(frozen=True)
class RunResult:
    """Folder of a run and its scores on valid."""

    path: Path
    metrics: RunMetrics
    trained: bool
    """False if the run was already complete."""
    is_main_process: bool = True
    """True in exactly one of the processes that trained together."""


@dataclass(frozen=True)
class ValidScores:
    """Scores of the best epoch on valid."""

    metrics: RunMetrics
    """The content of metrics.json."""
    probabilities: np.ndarray[Any, Any]
    """(N, C) float64, in the order of the split."""


class RunEnvironment(TypedDict):
    """The content of environment.json: software, machine, inputs and cost of a run."""

    time: str
    versions: dict[str, str]
    machine: Machine
    device: str
    processes: int
    threads: int
    commit: str | None
    inputs: Mapping[str, Any]
    """The `inputs` of config.json."""
    stores: dict[str, list[Mapping[str, Any]]]
    """Path and provenance of each store, by stream."""
    parameters: int
    seconds: float
    seconds_per_epoch: float
    peak_memory_gb: NotRequired[float]
    """This and the following only for `finetune`."""
    parity: NotRequired[Mapping[str, Any] | None]
    parameter_counts: NotRequired[dict[str, int]]


def fit_best(trainer: Trainer, run: Path, options: TrainHeadOptions | FinetuneOptions) -> None:
    """Train to the end and load the weights of the best epoch, or their mean up to it."""
    checkpoints = CheckpointSchedule(options.checkpoint_every, options.checkpoint_steps, options.keep_checkpoints)
    with closing(TensorBoard(run)) as board:
        use_board = options.tensorboard and trainer.processes.is_main_process
        trainer.fit(run, checkpoints, [board.add] if use_board else [])
    if trainer.best.weights is None:
        raise InputError("--epochs must be at least 1, so that an epoch is trained and scored")
    trainer.load_weights(trainer.best.weights)
    if options.average_last > 1:
        averaged = averaged_epochs(trainer.best.epoch, options.average_last)
        trainer.reporter.say(f"weights: the mean of the epochs {', '.join(map(str, averaged))}")


def score_best(
    trainer: Trained,
    weights: Mapping[str, str],
    layer_weights: Mapping[str, Mapping[str, float]],
    dropped: Mapping[str, Mapping[str, int]],
) -> ValidScores:
    """Score the best weights on valid; `weights` is the origin of each stream's encoder weights."""
    train, valid = trainer.train, trainer.valid
    probabilities = predict(trainer.model, valid, trainer.device, trainer.processes, trainer.reporter)
    scores = compute_metrics(valid.targets, probabilities, trainer.labels)
    metrics: RunMetrics = {
        "schema": SCHEMA,
        "labels": trainer.labels,
        "selected_epoch": trainer.best.epoch,
        "missing": {train.name: len(train.missing), valid.name: len(valid.missing)},
        "empty": {train.name: count_empty(train), valid.name: count_empty(valid)},
        "dropped": dropped,
        "features": dict(weights),
        "content_sha256": dict(valid.content_sha256),
        "layer_weights": layer_weights,
        "valid": {"missing": len(valid.missing), **scores.as_json()},
    }
    if trainer.options.average_last > 1:
        metrics["averaged_epochs"] = averaged_epochs(trainer.best.epoch, trainer.options.average_last)
    return ValidScores(metrics, probabilities)


def write_weights(run: Path, head: Head) -> None:
    """Write the weights of a head as model.safetensors."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in head.state_dict().items()}
    write_atomically(run / MODEL_FILE, save(tensors))


def write_results(run: Path, trainer: Trained, scores: ValidScores, environment: RunEnvironment) -> None:
    """Write all results beside the weights, which are there; metrics.json is last and marks the run as complete."""
    write_jsonl(
        run / "predictions-valid.jsonl", prediction_entries(trainer.valid, scores.probabilities, trainer.labels)
    )
    write_json(run / ENVIRONMENT_FILE, environment)
    scores.metrics["trained_model_sha256"] = hashlib.sha256((run / MODEL_FILE).read_bytes()).hexdigest()
    write_json(run / METRICS_FILE, scores.metrics)
    # a complete run is not resumed
    shutil.rmtree(run / CHECKPOINTS_FOLDER, ignore_errors=True)


def layer_weights(head: Head, shapes: Mapping[str, StreamShape]) -> dict[str, dict[str, float]]:
    """Return the learned weight of each layer, for streams of which several layers are mixed."""
    weights: dict[str, dict[str, float]] = {}
    for name, mix in head.mixes.items():
        if isinstance(mix, LayerMix):
            weights[name] = dict(zip(shapes[name].layers, mix.weights().tolist(), strict=True))
    return weights


def environment(
    config: RunConfig, trainer: Trained, stores: Mapping[str, Sequence[Mapping[str, Any]]], seconds: float
) -> RunEnvironment:
    """Return the content of environment.json, without what only `finetune` adds."""
    return {
        "time": now(),
        "versions": package_versions(),
        "machine": machine(),
        "device": str(trainer.device),
        "processes": trainer.processes.num_processes,
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "inputs": dict(config.inputs),
        "stores": {name: list(layers) for name, layers in stores.items()},
        "parameters": count_parameters(trainer.model.parameters()),
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(seconds / max(1, trainer.next_epoch - 1), 4),
    }


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory of this process: allocated by torch on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _commit() -> str | None:
    """Return the git commit of the current folder; None if it is not in a repository."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
