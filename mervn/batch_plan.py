"""What a training takes in which epoch and step, and which share of it each of several processes has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mervn.augmentation import SpecMask
from mervn.config import FinetuneOptions, TrainingOptions
from mervn.dataset import Split
from mervn.live import LiveSplit
from mervn.sampling import Cutting, epoch_batches, mixed_lengths, padding_efficiency, sampling_weights, share_of
from mervn.world import World

Batches = Sequence[Sequence[int]]


class BatchPlan:
    """The batches of every epoch: a pure function of the training split, the options and the epoch."""

    def __init__(self, train: Split | LiveSplit, labels: Sequence[str], options: TrainingOptions, world: World) -> None:
        self.train, self.labels, self.options, self.world = train, labels, options, world
        self.lengths = mixed_lengths(train.audio_seconds, train.syllables, options.alpha)
        self.weights = sampling_weights(train.targets, self.lengths, options.beta)
        rows = np.array(list(train.rows.values()))  # (streams, N)
        self.cutting = Cutting(rows, options.utterances_a_batch, options.frame_budget)
        self.usual_steps = self.num_steps(self.batches(0))
        """Steps of the first epoch; with a frame budget others differ a little."""

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the global batches of an epoch, as indices into the split."""
        options = self.options
        return epoch_batches(options.sampling, self.lengths, self.weights, self.cutting, options.seed, epoch)

    def num_steps(self, batches: Batches) -> int:
        """Return the steps that so many batches make."""
        return math.ceil(len(batches) / self.options.accumulate)

    def group(self, batches: Batches, step: int) -> Batches:
        """Return the batches whose gradients make a step."""
        return batches[step * self.options.accumulate : (step + 1) * self.options.accumulate]

    def places(self, batch: Sequence[int]) -> list[int]:
        """Return the places of this process's utterances in a batch; there may be none."""
        if self.world.size == 1:
            return list(range(len(batch)))
        return share_of(self.cutting.rows[:, list(batch)].sum(0), self.world.size)[self.world.rank]

    def begin(self, epoch: int, batches: Batches, step: int) -> None:
        """Tell the split what this process reads from a step of an epoch on, and what of the audio is masked."""
        options, mine, masks = self.options, [], []
        for number in range(step * options.accumulate, len(batches)):
            places = self.places(batches[number])
            if not places:
                continue
            mine.append([batches[number][place] for place in places])
            if isinstance(options, FinetuneOptions) and (options.spec_time or options.spec_frequency):
                seeds = [(options.seed, epoch, *divmod(number, options.accumulate), place) for place in places]
                masks.append([SpecMask(options.spec_time, options.spec_frequency, seed) for seed in seeds])
        self.train.expect(mine, masks)

    def describe(self, batches: Batches) -> Mapping[str, Any]:
        """Return what the sampling of an epoch did: real over padded rows, the share of each class, of utterances."""
        indices = np.concatenate(batches)
        shares = np.bincount(self.train.targets[indices], minlength=len(self.labels)) / len(indices)
        return {
            "batches": len(batches),
            "padding_efficiency": {
                name: padding_efficiency(rows, batches)
                for name, rows in zip(self.train.rows, self.cutting.rows, strict=True)
            },
            "classes": dict(zip(self.labels, shares.tolist(), strict=True)),
            "covered": len(np.unique(indices)) / len(self.train),
        }
