"""Training a head on cached sequences: a pure function of the data, the options and the seed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.atomic_files import write_atomically
from features.errors import InputError
from features.lazy_import import import_target
from features.memory import is_out_of_memory
from features.progress import Progress, no_bar
from features.signals import interrupt, interrupted, interruptible
from mervn.config import FinetuneOptions, TrainingOptions
from mervn.data.augmentation import augment
from mervn.data.stored_split import Split
from mervn.data.waveform_split import LiveSplit
from mervn.distributed import ALONE, World
from mervn.evaluation.metrics import compute_metrics
from mervn.evaluation.predict import predict
from mervn.model.custom_module import loss_spec
from mervn.model.end_to_end import EndToEnd
from mervn.model.head import Head, head_groups
from mervn.model.losses import balanced_weights
from mervn.training.batch_plan import BatchPlan
from mervn.training.checkpoint import (
    NO_SAVING,
    Best,
    Saving,
    checkpoint_name,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    remove_older,
    rng_tensors,
    save_checkpoint,
)
from mervn.training.optimization import Precision, learning_rate, make_optimizer, resolve_amp

Report = Callable[[dict[str, Any]], None]
"""Called with the history entry of an epoch."""


class Trainer:
    """Trains one head; `fit` goes on from the latest checkpoint of `folder` exactly as if never interrupted.

    Epochs count from 1. With `whole`, the head's encoders are trained with it, and epoch 0 is the model as it came in:
    scored, not trained.
    The processes of a `world` share every batch by its cost, and take the step that one alone would.
    """

    def __init__(
        self,
        head: Head,
        train: Split | LiveSplit,
        valid: Split | LiveSplit,
        labels: list[str],
        options: TrainingOptions,
        device: torch.device,
        whole: EndToEnd | None = None,
        world: World = ALONE,
        progress: Progress = no_bar,
    ) -> None:
        self.head, self.train, self.valid = head, train, valid
        self.whole, self.world, self.progress = whole, world, progress
        self.model: nn.Module = head if whole is None else whole
        self.first = 1 if whole is None else 0
        """The first epoch: 1, or 0 if the model is scored before it is trained."""
        self.labels, self.options, self.device = labels, options, device
        groups = head_groups(head, options)
        if whole is not None and isinstance(options, FinetuneOptions):
            groups = whole.groups(options)
        self.optimizer = make_optimizer(groups, options)
        moved = {id(p) for group in groups for p in group["params"]}
        self.frozen = {name for name, p in self.model.named_parameters() if id(p) not in moved}
        self.precision = Precision(resolve_amp(options.amp, device), device)
        self.masses = np.ones(len(train))
        """(N,) what each utterance counts for in the mean of a loss: the weight of its class."""
        self.loss = self._make_loss()
        self.plan = BatchPlan(train, labels, options, world)
        self.best = Best()
        self.next_epoch = self.first
        self.next_step = 0
        """The step of `next_epoch` to go on with."""
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=device)
        self.loader_seconds = 0.0

    def _make_loss(self) -> nn.Module:
        options, weights = self.options, None
        if options.class_weights == "balanced":
            counts = torch.from_numpy(np.bincount(self.train.targets, minlength=len(self.labels)))
            weights = balanced_weights(counts)
            self.masses = weights.double().numpy()[self.train.targets]
        spec = loss_spec(options.loss)
        loss: nn.Module = import_target(spec.target)(weights, **{name: getattr(options, name) for name in spec.options})
        return loss.to(self.device)

    def fit(self, folder: Path, saving: Saving, reports: Sequence[Report]) -> None:
        """Train until the last epoch or until `patience` epochs brought no higher macro-F1; `best` holds the result."""
        history = folder / "history.jsonl"
        self._resume(folder / "checkpoints", history)
        with interruptible():
            while self.next_epoch <= self.options.epochs and not self.finished:
                entry = self._epoch(self.next_epoch, folder / "checkpoints", saving)
                if self.world.is_main:
                    with history.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry, sort_keys=True) + "\n")
                done, self.next_epoch, self.next_step = self.next_epoch, self.next_epoch + 1, 0
                if saving.epochs and done % saving.epochs == 0:
                    self._save(folder / "checkpoints", saving.keep)
                for report in reports:
                    report(entry)

    @property
    def finished(self) -> bool:
        """Tell whether early stopping has ended the training."""
        return self.best.improved >= 0 and self.next_epoch - 1 - self.best.improved >= self.options.patience

    def _epoch(self, epoch: int, checkpoints: Path, saving: Saving) -> dict[str, Any]:
        started = time.perf_counter()
        self.loader_seconds = 0.0
        if epoch == 0:
            return self._score(epoch, started)
        train_loss = self.train_epoch(epoch, checkpoints, saving)
        if not math.isfinite(train_loss):
            raise InputError(f"epoch {epoch}: the loss must be finite, found {train_loss}; lower --learning-rate")
        batches = self.plan.batches(epoch)
        steps = self.plan.num_steps(batches)
        known = {
            "train_loss": train_loss,
            "learning_rate": self._learning_rate(epoch, steps, steps - 1),
            "drawn": self.plan.describe(batches),
        }
        return known | self._score(epoch, started)

    def _score(self, epoch: int, started: float) -> dict[str, Any]:
        """Score the model on valid, offer it as the best, and return what the history says of it."""
        probabilities = predict(self.model, self.valid, self.device, self.world, self.progress)
        metrics = compute_metrics(self.valid.targets, probabilities, self.labels)
        self.best.offer(epoch, metrics["macro_f1"], metrics["nll"], self.weights_state())
        return {
            "epoch": epoch,
            "valid": {key: metrics[key] for key in ("accuracy", "macro_f1", "nll")},
            "best_epoch": self.best.epoch,
            "seconds": round(time.perf_counter() - started, 4),
            "loader_seconds": round(self.loader_seconds, 4),
        }

    def weights_state(self) -> dict[str, Tensor]:
        """Return the weights that training can change."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.frozen}

    def train_epoch(self, epoch: int, checkpoints: Path | None = None, saving: Saving = NO_SAVING) -> float:
        """Run one epoch, or what is left of it, and return its mean loss over utterances."""
        options = self.options
        if self.whole is not None and isinstance(options, FinetuneOptions):
            self.whole.enter_epoch(epoch, options)
        self.model.train()
        batches = self.plan.batches(epoch)
        steps = self.plan.num_steps(batches)
        self.plan.begin(epoch, batches, self.next_step)
        if not self.next_step:
            self.epoch_loss.zero_()
        done = sum(map(len, batches[: self.next_step * options.accumulate]))
        with closing(self.progress(len(self.train), done, f"epoch {epoch}")) as bar:
            for step in range(self.next_step, steps):
                group = self.plan.group(batches, step)
                for parameters in self.optimizer.param_groups:
                    parameters["lr"] = self._learning_rate(epoch, steps, step) * parameters.get("scale", 1.0)
                self._step(group, (options.seed, epoch, step))
                bar.update(sum(map(len, group)))
                due = saving.steps and (step + 1) % saving.steps == 0
                stop = self.world.agree(interrupted())
                if checkpoints is not None and (due or (saving.any and stop)):
                    self.next_step = step + 1
                    self._save(checkpoints, saving.keep)
                if stop:
                    interrupt()
        self.next_step = 0
        return float(sum(self.world.gather(float(self.epoch_loss)))) / len(self.train)

    def _learning_rate(self, epoch: int, steps: int, step: int) -> float:
        """Return the rate of a step; where a frame budget gives epochs of other lengths, each counts as the first."""
        options, usual = self.options, self.plan.usual_steps
        done = (epoch - 1) * usual + step * usual / steps
        return learning_rate(done, options.epochs * usual, options.warmup, options.learning_rate, options.schedule)

    def _step(self, group: Sequence[Sequence[int]], seed: tuple[int, ...]) -> None:
        """Move the parameters once, by the mean loss over the utterances of some batches."""
        total = sum(map(len, group))
        mass = sum(self.masses[list(indices)].sum() for indices in group)
        for number, (indices, places) in enumerate(zip(group, self.plan.places(group), strict=True)):
            if not places:
                continue
            mine = [indices[place] for place in places]
            before = time.perf_counter()
            streams = self.train.batch(mine, self.device)
            targets = self.train.batch_targets(mine, self.device)
            self.loader_seconds += time.perf_counter() - before
            with self.precision.autocast():
                features = streams if self.whole is None else self.whole.encode(streams)
                logits = self.head(augment(features, self.options, (*seed, number), len(indices), places))
            loss = self.loss(logits, targets)
            share = float(self.masses[mine].sum() / mass)
            self.precision.backward(loss * share)
            self.epoch_loss += loss.detach().double() * (share * total)
        self.world.add_gradients(self.model.parameters())
        self.precision.step(self.model, self.optimizer, self.options.clip_norm)

    def _save(self, checkpoints: Path, keep: int) -> None:
        name = (
            checkpoint_name(self.next_epoch, self.next_step) if self.next_step else checkpoint_name(self.next_epoch - 1)
        )
        folder = checkpoints / name
        tensors = {f"model.{name}": tensor for name, tensor in self.weights_state().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in (self.best.weights or {}).items()}
        tensors |= optimizer_tensors(self.optimizer)
        own = {name: tensor.cpu() for name, tensor in (rng_tensors() | {"epoch_loss": self.epoch_loss}).items()}
        for rank, theirs in enumerate(self.world.gather(own)):
            tensors |= {f"process.{rank}.{name}": tensor for name, tensor in theirs.items()}
        best = {key: getattr(self.best, key) for key in ("epoch", "macro_f1", "nll", "improved")}
        state = {"epoch": self.next_epoch, "next_step": self.next_step, "best": best}
        state |= {"scaler": self.precision.state(), "processes": self.world.size}

        def write() -> None:
            save_checkpoint(folder, tensors, state)
            remove_older(checkpoints, folder, keep)

        self.world.on_main(write)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `weights_state` gave; InputError for weights of other names or shapes."""
        self._check_weights(weights)
        self.model.load_state_dict(dict(weights), strict=False)

    def _check_weights(self, weights: Mapping[str, Tensor]) -> None:
        mine = self.weights_state()
        wrong = mine.keys() ^ weights.keys()
        wrong |= {name for name in mine.keys() & weights.keys() if mine[name].shape != weights[name].shape}
        if wrong:
            raise InputError(f"the weights must be those of this model, but {len(wrong)} differ, such as {min(wrong)}")

    def _resume(self, checkpoints: Path, history: Path) -> None:
        """Load the latest checkpoint, if there is one, and cut the history to it."""
        latest = latest_checkpoint(checkpoints)
        if latest is not None:
            tensors, state = load_checkpoint(latest)
            if "epoch" not in state:
                raise InputError(
                    f"{latest} must be a whole checkpoint of this version of mervn; train again with --force"
                )
            if state.get("processes") != self.world.size:
                raise InputError(
                    f"{latest} was written by {state.get('processes')} processes, now there are {self.world.size}: "
                    "start as many, or train again with --force"
                )
            try:
                self._restore(tensors, state)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                raise InputError(f"{latest} must be a whole checkpoint, found: {error!r}; use --force") from error
        lines = history.read_text("utf-8").splitlines() if history.exists() else []
        if self.world.is_main:
            write_atomically(history, "".join(line + "\n" for line in lines[: self.next_epoch - self.first]))

    def _restore(self, tensors: dict[str, Tensor], state: Mapping[str, Any]) -> None:
        self.load_weights(_under("model.", tensors))
        load_optimizer_tensors(self.optimizer, tensors)
        own = _under(f"process.{self.world.rank}.", tensors)
        load_rng_tensors(own)
        best = {"improved": state["best"]["epoch"]} | state["best"]
        self.best = Best(**best, weights=_under("best.", tensors) or None)
        if self.best.weights is not None:
            self._check_weights(self.best.weights)
        self.next_epoch, self.next_step = state["epoch"] + 0, state["next_step"] + 0
        self.epoch_loss.copy_(own["epoch_loss"])
        self.precision.load(state["scaler"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
