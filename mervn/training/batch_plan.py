"""What a training takes in which epoch and step, and which share of it each of several processes has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mervn.config import TrainingOptions
from mervn.data.augmentation import SpecMask
from mervn.data.stored_split import Split
from mervn.data.waveform_split import LiveSplit
from mervn.distributed import World
from mervn.training.sampling import (
    Cutting,
    epoch_batches,
    mixed_lengths,
    padding_efficiency,
    sampling_weights,
    shares_of,
)

Batches = Sequence[Sequence[int]]


class BatchPlan:
    """The batches of every epoch: a pure function of the training split, the options and the epoch."""

    def __init__(self, train: Split | LiveSplit, labels: Sequence[str], options: TrainingOptions, world: World) -> None:
        self.train, self.labels, self.options, self.world = train, labels, options, world
        self.lengths = mixed_lengths(train.audio_seconds, train.syllables, options.alpha)
        self.weights = sampling_weights(train.targets, self.lengths, options.beta)
        rows = np.array(list(train.rows.values()))  # (streams, N)
        self.cutting = Cutting(rows, options.utterances_per_batch, options.frame_budget)
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

    def places(self, group: Batches) -> list[list[int]]:
        """Return the places of this process's utterances in each batch of a step; there may be none."""
        if self.world.size == 1:
            return [list(range(len(batch))) for batch in group]
        costs = [self.cutting.rows[:, list(batch)].sum(0) for batch in group]
        return [shares[self.world.rank] for shares in shares_of(costs, self.world.size)]

    def begin(self, epoch: int, batches: Batches, step: int) -> None:
        """Tell the split what this process reads from a step of an epoch on, and what of the audio is masked."""
        options, mine, masks = self.options, [], []
        time, frequency = getattr(options, "spec_time", 0.0), getattr(options, "spec_frequency", 0.0)
        for now in range(step, self.num_steps(batches)):
            group = self.group(batches, now)
            for number, (batch, places) in enumerate(zip(group, self.places(group), strict=True)):
                if not places:
                    continue
                mine.append([batch[place] for place in places])
                if time or frequency:
                    seeds = [(options.seed, epoch, now, number, place) for place in places]
                    masks.append([SpecMask(time, frequency, seed) for seed in seeds])
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
