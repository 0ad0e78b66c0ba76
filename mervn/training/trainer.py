"""Trainer: training loop with early stopping and exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.errors import InputError
from features.heap import keep_freed_memory
from features.progress import SILENT, Reporter
from features.signals import interrupt, interrupted, interruptible
from mervn.config import TrainingOptions
from mervn.data.augmentation import NO_MASKS, SpecAugment, augment
from mervn.data.split import Batch, Split
from mervn.distributed import SINGLE_PROCESS, Processes
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.predict import predict
from mervn.model.losses import balanced_weights, build_loss
from mervn.model.trainable import Trainable
from mervn.training.averaging import RecentWeights
from mervn.training.batch_plan import BatchPlan
from mervn.training.checkpoint import (
    CHECKPOINTS_FOLDER,
    NO_CHECKPOINTS,
    BestEpoch,
    Checkpoint,
    CheckpointSchedule,
    checkpoint_name,
    latest_checkpoint,
    load_optimizer_tensors,
    load_rng_tensors,
    load_training_checkpoint,
    numerics,
    optimizer_tensors,
    remove_older,
    require_same_shapes,
    restoring,
    rng_tensors,
    save_checkpoint,
    with_prefix,
    without_prefix,
)
from mervn.training.history import History, HistoryEntry
from mervn.training.optimization import Precision, learning_rate, make_optimizer
from mervn.training.setup import Resolved

Report = Callable[[Mapping[str, Any]], None]
"""Callback that receives the history entry of an epoch as a JSON object."""


@dataclass(frozen=True)
class TrainingData:
    """The split to train on, and the split to select the best epoch on."""

    train: Split
    valid: Split
    labels: list[str]


class Trainer:
    """Trains one model; data, options and seed determine its result, even after an interruption.

    Several `processes` divide the utterances of each batch; their step equals that of one process.
    """

    def __init__(
        self,
        model: Trainable,
        data: TrainingData,
        resolved: Resolved[Any],
        *,
        spec_augment: SpecAugment = NO_MASKS,
        processes: Processes = SINGLE_PROCESS,
        reporter: Reporter = SILENT,
    ) -> None:
        self.model, self.train, self.valid, self.labels = model, data.train, data.valid, data.labels
        options: TrainingOptions = resolved.options
        device = resolved.device
        self.options, self.device, self.processes, self.reporter = options, device, processes, reporter
        groups = model.parameter_groups(options)
        self.optimizer = make_optimizer(groups, options)
        self.parameters = list(model.parameters())  # once: to walk through a model takes 3 % of a small step
        trained_ids: set[int] = set()
        for group in groups:
            trained_ids.update(map(id, group["params"]))
        self.frozen = {name for name, tensor in model.named_parameters() if id(tensor) not in trained_ids}
        self.precision = Precision(options.amp, device)
        counts = torch.from_numpy(np.bincount(self.train.targets, minlength=len(self.labels)))  # (C,)
        class_weights = balanced_weights(counts) if options.class_weights == "balanced" else None
        self.loss = build_loss(resolved.loss, options, class_weights, counts).to(device)
        self.sample_weights = np.ones(len(self.train))
        """(N,) weight of each utterance in the mean of the loss: the weight of its class."""
        if class_weights is not None:
            self.sample_weights = class_weights.double().numpy()[self.train.targets]
        self.plan = BatchPlan(self.train, options, processes, spec_augment)
        self.best = BestEpoch(scores=(-1.0, -math.inf))  # macro-F1, then -NLL
        self.recent = RecentWeights(options.average_last)
        self.next_epoch = model.first_epoch
        self.next_step = 0
        """The step at which `next_epoch` begins; not 0 after resuming within an epoch."""
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.loader_seconds = 0.0

    def fit(self, folder: Path, checkpoints: CheckpointSchedule, reports: Sequence[Report] = ()) -> None:
        """Train until the last epoch or until early stopping; `best` then holds the result."""
        history, saved = History(folder), folder / CHECKPOINTS_FOLDER
        self._resume(saved, history)
        keep_freed_memory()
        with interruptible():
            while self.next_epoch <= self.options.epochs and not self.finished:
                entry = self._epoch(self.next_epoch, saved, checkpoints).as_json()
                if self.processes.is_main_process:
                    history.append(entry)
                finished_epoch = self.next_epoch
                self.next_epoch, self.next_step = finished_epoch + 1, 0
                if checkpoints.epochs and finished_epoch % checkpoints.epochs == 0:
                    self._save(saved, checkpoints.keep)
                for report in (*reports, self.reporter.epoch):
                    report(entry)

    @property
    def finished(self) -> bool:
        """Tell whether early stopping has ended the training."""
        return self.best.improved >= 0 and self.next_epoch - 1 - self.best.improved >= self.options.patience

    def _epoch(self, epoch: int, folder: Path, checkpoints: CheckpointSchedule) -> HistoryEntry:
        """Train and score one epoch; epoch 0 is only scored."""
        started = time.perf_counter()
        self.loader_seconds = 0.0
        if epoch == 0:
            return self._score(epoch, started)
        train_loss = self.train_epoch(epoch, folder, checkpoints)
        if not math.isfinite(train_loss):
            raise InputError(f"epoch {epoch}: the loss must be finite, found {train_loss}; lower --learning-rate")
        batches = self.plan.batches(epoch)
        steps = self.plan.num_steps(batches)
        rate = self._learning_rate(epoch, steps, steps - 1)
        return self._score(epoch, started, train_loss, rate, self.plan.describe(batches, self.labels))

    def _score(
        self,
        epoch: int,
        started: float,
        train_loss: float | None = None,
        rate: float | None = None,
        drawn: Mapping[str, Any] | None = None,
    ) -> HistoryEntry:
        """Score the model on valid, keep the best weights, and return the history entry.

        With `average_last`, the weights of this epoch are scored, and the mean up to it is kept.
        """
        probabilities = predict(self.model, self.valid, self.device, self.processes, self.reporter)
        metrics = compute_metrics(self.valid.targets, probabilities, self.labels)
        mean = self.recent.add(epoch, self.trained_weights())
        self.best.offer(epoch, (metrics.macro_f1, -metrics.nll), mean)
        return HistoryEntry(
            epoch=epoch,
            valid={"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "nll": metrics.nll},
            best_epoch=self.best.epoch,
            seconds=round(time.perf_counter() - started, 4),
            loader_seconds=round(self.loader_seconds, 4),
            train_loss=train_loss,
            learning_rate=rate,
            drawn=drawn,
        )

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights that training can change: all except frozen parameters."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.frozen}

    def train_epoch(
        self, epoch: int, folder: Path | None = None, checkpoints: CheckpointSchedule = NO_CHECKPOINTS
    ) -> float:
        """Train one epoch from `next_step` on; return its mean loss over the utterances."""
        self.model.start_epoch(epoch)
        self.model.train()
        batches = self.plan.batches(epoch)
        steps = self.plan.num_steps(batches)
        read = self.train.batches(self.plan.requests(epoch, batches, self.next_step), self.device)
        if self.next_step == 0:
            self.epoch_loss.zero_()
        done = int(batches.sizes[: self.next_step * self.options.accumulate].sum())
        with closing(self.reporter.progress(len(self.train), done, f"epoch {epoch}")) as bar:
            for step in range(self.next_step, steps):
                group = self.plan.group(batches, step)
                for parameters in self.optimizer.param_groups:
                    parameters["lr"] = self._learning_rate(epoch, steps, step) * parameters.get("scale", 1.0)
                self._step(group, read, (self.options.seed, epoch, step))
                bar.update(sum(map(len, group)))
                due = checkpoints.steps and (step + 1) % checkpoints.steps == 0
                stop = self.processes.any_process(interrupted())  # all stop at the same step
                if folder is not None and (due or (checkpoints.is_active and stop)):
                    self.next_step = step + 1
                    self._save(folder, checkpoints.keep)
                if stop:
                    interrupt()
        self.next_step = 0
        return float(sum(self.processes.gather(float(self.epoch_loss)))) / len(self.train)

    def _learning_rate(self, epoch: int, steps: int, step: int) -> float:
        """Return the learning rate of a step; in the schedule, all epochs have the same length."""
        options, usual = self.options, self.plan.usual_steps
        # with a frame budget, the number of steps varies between epochs
        done = (epoch - 1) * usual + step * usual / steps
        return learning_rate(done, options.epochs * usual, options.warmup, options.learning_rate, options.schedule)

    def _step(self, group: Sequence[Sequence[int]], read: Iterator[Batch], seed: tuple[int, ...]) -> None:
        """Take one optimizer step on the mean loss over all utterances of a group of batches.

        `read` yields this process's portion of each batch, without batches of which it has none.
        """
        total = sum(map(len, group))
        weight = sum(self.sample_weights[list(indices)].sum() for indices in group)
        for number, (indices, places) in enumerate(zip(group, self.plan.places(group), strict=True)):
            if not places:
                continue
            before = time.perf_counter()
            batch = next(read)
            inputs = batch.inputs()
            self.loader_seconds += time.perf_counter() - before
            with self.precision.autocast():
                features = self.model.encode(inputs)
                augmented = augment(features, self.options, (*seed, number), len(indices), places)
                logits = self.model.classify(augmented)
            loss = self.loss(logits, batch.targets)
            # from the mean over this portion to its part of the mean over the whole group
            fraction = float(self.sample_weights[batch.indices].sum() / weight)
            self.precision.backward(loss * fraction)
            self.epoch_loss += loss.detach().double() * (fraction * total)
        self.processes.sum_gradients(self.parameters)
        self.precision.step(self.parameters, self.optimizer, self.options.clip_norm)

    def _save(self, checkpoints: Path, keep: int) -> None:
        """Write a checkpoint: weights, optimizer, and random states and loss of each process."""
        name = checkpoint_name(self.next_epoch - 1)
        if self.next_step:
            name = checkpoint_name(self.next_epoch, self.next_step)
        tensors = with_prefix("model.", self.trained_weights()) | with_prefix("best.", self.best.weights or {})
        tensors |= optimizer_tensors(self.optimizer) | with_prefix("recent.", self.recent.tensors())
        own = rng_tensors() | {"epoch_loss": self.epoch_loss.cpu()}
        for process_index, process_tensors in enumerate(self.processes.gather(own)):
            tensors |= with_prefix(f"process.{process_index}.", process_tensors)
        macro_f1, negative_nll = self.best.scores
        best = {"epoch": self.best.epoch, "macro_f1": macro_f1, "nll": -negative_nll, "improved": self.best.improved}
        state = {"epoch": self.next_epoch, "next_step": self.next_step, "best": best}
        state |= {"scaler": self.precision.state(), "processes": self.processes.num_processes}
        state["numerics"] = numerics(self.model)

        def write() -> None:
            save_checkpoint(checkpoints / name, tensors, state)
            remove_older(checkpoints, checkpoints / name, keep)

        self.processes.on_main_process(write)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights that `trained_weights` returned; InputError if names or shapes differ."""
        require_same_shapes(self.trained_weights(), weights)
        self.model.load_state_dict(dict(weights), strict=False)

    def _resume(self, checkpoints: Path, history: History) -> None:
        """Load the latest checkpoint, if any, and cut the history to its epoch."""
        latest = latest_checkpoint(checkpoints)
        if latest is not None:
            checkpoint = load_training_checkpoint(latest, self.processes.num_processes, self.model)
            with restoring(latest):
                self._restore(checkpoint)
        if self.processes.is_main_process:
            history.cut(self.next_epoch - self.model.first_epoch)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint; errors of any kind mean that it is damaged."""
        tensors, state = checkpoint.tensors, checkpoint.state
        self.load_weights(without_prefix("model.", tensors))
        load_optimizer_tensors(self.optimizer, tensors)
        own = without_prefix(f"process.{self.processes.process_index}.", tensors)
        load_rng_tensors(own)
        # checkpoints of earlier versions lack `improved`
        best = {"improved": state["best"]["epoch"]} | state["best"]
        # + and - raise TypeError for values that are not numbers
        scores = (best["macro_f1"] + 0.0, -best["nll"])
        weights = without_prefix("best.", tensors) or None
        self.best = BestEpoch(scores, best["epoch"], best["improved"], weights)
        if weights is not None:
            require_same_shapes(self.trained_weights(), weights)
        self.next_epoch, self.next_step = state["epoch"] + 0, state["next_step"] + 0
        self.recent.load(without_prefix("recent.", tensors), self.next_epoch - 1, self.trained_weights())
        self.epoch_loss.copy_(own["epoch_loss"])
        self.precision.load(state["scaler"])
