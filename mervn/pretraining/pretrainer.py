"""Training loop of masked-frame prediction.

AdamW with warm-up, a cosine schedule and gradient clipping; the best epoch on valid is kept. With
`epochs`, the result depends only on the audio, the options and the seed, and on a CPU a resumed
training gives the same result as an uninterrupted one. With `minutes`, the schedule follows the
clock.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from features.batching import plan_batches
from features.errors import InputError
from features.progress import SILENT, Reporter
from features.ragged import Ragged
from features.random_streams import Purpose, generator
from mervn.config import PretrainOptions
from mervn.model.trainable import decay_groups
from mervn.pretraining.log_mel_cache import Frames
from mervn.pretraining.masked_frames import MaskedFrames, draw_positions, l1_sums
from mervn.training.checkpoint import (
    BestEpoch,
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    remove_older,
    require_same_shapes,
    restoring,
    save_checkpoint,
    with_prefix,
    without_prefix,
)
from mervn.training.history import History
from mervn.training.optimization import learning_rate_at, make_optimizer

MEL_PER_SECOND = 100
MAX_BATCH = 256
"""Maximum number of utterances per batch."""
DEFAULT_EPOCHS = 30
JITTER = (0.9, 1.1)
"""Range of random factors on the lengths before sorting, so that batches differ between epochs."""


class PretrainScores(TypedDict):
    """Scores on the masked frames of valid."""

    l1: float
    mean_l1: float
    """L1 of predicting the mean."""
    ratio: float
    """l1 / mean_l1."""


class PretrainEpoch(TypedDict):
    """The history entry of one epoch; epochs count from 1."""

    epoch: int
    steps: int
    train_loss: float
    valid: PretrainScores
    best_epoch: int
    learning_rate: float
    seconds: float
    seconds_left: float


class Pretrainer:
    """Trainer of one model; `fit` resumes from the latest checkpoint in `folder`."""

    def __init__(
        self,
        model: MaskedFrames,
        train: Frames,
        valid: Frames,
        options: PretrainOptions,
        device: torch.device,
    ) -> None:
        self.model, self.train, self.valid = model, train, valid
        self.options, self.device = options, device
        self.optimizer = make_optimizer(decay_groups(model, options.weight_decay), options)
        self.epochs = None if options.minutes else options.epochs or DEFAULT_EPOCHS
        self.best = BestEpoch(scores=(-math.inf,))  # the negative L1 on valid
        self.mean_l1 = math.inf
        """L1 of predicting the mean, at the best epoch."""
        self.next_epoch = 0
        self.steps = 0
        self.validation_s = 0.0
        self._started = time.perf_counter()

    @property
    def progress(self) -> float:
        """The fraction of `minutes` that has passed, 0..1, counting the next validation as passed.

        0 without `minutes`.
        """
        spent = time.perf_counter() - self._started + self.validation_s
        return min(1.0, spent / (60 * self.options.minutes)) if self.options.minutes else 0.0

    @property
    def finished(self) -> bool:
        """Tell whether all epochs or minutes are used; at least one epoch always runs."""
        if self.epochs is not None:
            return self.next_epoch >= self.epochs
        return self.next_epoch > 0 and self.progress >= 1

    def fit(self, folder: Path, reporter: Reporter = SILENT) -> None:
        """Train until all epochs or minutes are used; `best` holds the result."""
        history, every = History(folder), self.options.checkpoint_every
        self._resume(folder / "checkpoints", history)
        while not self.finished:
            entry = self._epoch(self.next_epoch)
            history.append(entry)
            self.next_epoch += 1
            if every and self.next_epoch % every == 0:
                self._save(folder / "checkpoints")
            reporter.epoch(entry)

    def _epoch(self, done: int) -> PretrainEpoch:
        """Train and validate one epoch after `done` others, and return its history entry."""
        started, epoch = time.perf_counter(), done + 1
        train_loss = self.train_epoch(done)
        before = time.perf_counter()
        l1, mean_l1 = self.validate()
        self.validation_s = time.perf_counter() - before
        if not (math.isfinite(train_loss) and math.isfinite(l1)):
            raise InputError(
                f"epoch {epoch}: the losses must be finite, found {train_loss} on train and {l1} on valid; "
                "lower --learning-rate"
            )
        if self.best.offer(epoch, (-l1,), self.model.encoder.state_dict()):
            self.mean_l1 = mean_l1
        seconds = time.perf_counter() - started
        seconds_left = self._seconds_left(seconds)
        return {
            "epoch": epoch,
            "steps": self.steps,
            "train_loss": train_loss,
            "valid": {"l1": l1, "mean_l1": mean_l1, "ratio": l1 / mean_l1},
            "best_epoch": self.best.epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 3),
            "seconds_left": round(seconds_left, 1),
        }

    def _seconds_left(self, epoch_s: float) -> float:
        """Estimate the remaining seconds from the seconds of one epoch."""
        if self.epochs is not None:
            return (self.epochs - self.next_epoch - 1) * epoch_s
        return max(0.0, 60 * (self.options.minutes or 0.0) - (time.perf_counter() - self._started))

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch, or until the minutes are used; return the mean loss over masked frames.

        Here `epoch` counts from 0.
        """
        self.model.train()
        rng = generator(Purpose.PRETRAIN_ORDER, self.options.seed, epoch)
        batches = self._batches(self.train, rng.uniform(*JITTER, len(self.train)))
        order = rng.permutation(len(batches))
        total, count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for number, index in enumerate(order):
            progress = (epoch + (number + 1) / len(order)) / self.epochs if self.epochs else self.progress
            if progress >= 1 and count and self.epochs is None:
                break
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(progress, self.options.warmup, self.options.learning_rate)
            mel, hidden = self.batch(self.train, batches[index], epoch)
            prediction, target = self.model(mel, hidden)
            loss = l1_sums(prediction, target, hidden).sum()
            self.optimizer.zero_grad(set_to_none=True)
            (loss / max(1, hidden.total)).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
            self.optimizer.step()
            total += loss.detach().double()
            count += hidden.total
            self.steps += 1
        return float(total) / max(1, count)

    def validate(self) -> tuple[float, float]:
        """Return the L1 on the masked frames of valid, and the L1 of predicting the mean.

        The masks never change. Normalized frames have mean zero in every mel band, so zero predicts
        the mean.
        """
        self.model.eval()
        totals, count = torch.zeros(2, dtype=torch.float64, device=self.device), 0
        with torch.inference_mode():
            for indices in self._batches(self.valid):
                mel, hidden = self.batch(self.valid, indices, None)
                prediction, target = self.model(mel, hidden)
                model_l1 = l1_sums(prediction, target, hidden).double().sum()
                mean_l1 = l1_sums(target.new_zeros(()), target, hidden).double().sum()
                totals += torch.stack([model_l1, mean_l1])
                count += hidden.total
        l1, baseline = (totals / max(1, count)).tolist()
        return l1, baseline

    def batch(self, frames: Frames, indices: list[int], epoch: int | None) -> tuple[Ragged, Ragged]:
        """Return raw log-mel frames (sum F, num_mels), and indices (sum M,) of frames to mask.

        The indices count the 50 Hz frames of each utterance's crop. The crop and mask of an
        utterance depend on (seed, epoch, utterance), never on the batch. With epoch None, as for
        valid, they never change.
        """
        mels, positions = [], []
        for index in indices:
            rng = self._mask_generator(epoch, index)
            size = frames.sizes[index]
            length = min(size, self._max_frames)
            first = int(rng.integers(size - length + 1))
            mels.append(frames.read(index, first, first + length))
            positions.append(draw_positions(rng, length, self.options.mask_start, self.options.mask_span))
        return Ragged.from_sequences(mels).to(self.device), Ragged.from_sequences(positions).to(self.device)

    def _mask_generator(self, epoch: int | None, index: int) -> np.random.Generator:
        """Return the random generator for the crop and mask of an utterance."""
        if epoch is None:
            return generator(Purpose.PRETRAIN_VALID, self.options.seed, index)
        return generator(Purpose.PRETRAIN_MASK, self.options.seed, epoch, index)

    @property
    def _max_frames(self) -> int:
        """Maximum number of mel frames of a crop."""
        return round(self.options.max_seconds * MEL_PER_SECOND)

    def _batches(self, frames: Frames, factors: np.ndarray[Any, Any] | None = None) -> list[list[int]]:
        """Return batches of utterances of similar length, sorted by length times `factors`."""
        lengths_s = np.minimum(frames.sizes, self._max_frames) / MEL_PER_SECOND
        if factors is not None:
            lengths_s = lengths_s * factors
        return plan_batches(lengths_s.tolist(), self.options.batch_seconds, MAX_BATCH)

    def _save(self, checkpoints: Path) -> None:
        """Write a checkpoint, and remove the earlier ones."""
        folder = checkpoints / f"epoch-{self.next_epoch:05d}"
        tensors = with_prefix("model.", self.model.state_dict()) | with_prefix("best.", self.best.weights or {})
        state = {
            "next_epoch": self.next_epoch,
            "steps": self.steps,
            "spent_s": time.perf_counter() - self._started,
            "best": {"epoch": self.best.epoch, "l1": self.best_l1, "mean_l1": self.mean_l1},
            "audio": self._audio,
        }
        save_checkpoint(folder, tensors | optimizer_tensors(self.optimizer), state)
        remove_older(checkpoints, folder)

    @property
    def best_l1(self) -> float:
        """The lowest L1 on valid."""
        return -self.best.scores[0]

    @property
    def _audio(self) -> dict[str, str]:
        """Hash of the audio of each split."""
        return {"train": self.train.audio_sha256, "valid": self.valid.audio_sha256}

    def _resume(self, checkpoints: Path, history: History) -> None:
        """Load the latest checkpoint, if any, and truncate the history to its epoch.

        InputError if the audio has changed since.
        """
        latest = latest_checkpoint(checkpoints)
        if latest is not None:
            checkpoint = load_checkpoint(latest)
            with restoring(latest):
                audio = checkpoint.state["audio"]
            if audio != self._audio:
                raise InputError(
                    f"the audio must be the same as for {latest}, but it has changed since; pass --force to train again"
                )
            with restoring(latest):
                self._restore(checkpoint)
        history.cut(self.next_epoch)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint; errors of any kind mean that it is damaged."""
        tensors, state = checkpoint.tensors, checkpoint.state
        self.model.load_state_dict(without_prefix("model.", tensors))
        load_optimizer_tensors(self.optimizer, tensors)
        best, weights = state["best"], without_prefix("best.", tensors)
        require_same_shapes(self.model.encoder.state_dict(), weights)
        # + and - raise TypeError for values that are not numbers
        self.best = BestEpoch((-best["l1"],), best["epoch"] + 0, best["epoch"] + 0, weights)
        self.mean_l1 = best["mean_l1"] + 0.0
        self.next_epoch, self.steps = state["next_epoch"] + 0, state["steps"] + 0
        self._started -= state["spent_s"]
