"""BatchPlan: the batches of every epoch and step, and the portion that this process reads."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.batching import Batches
from mervn.config import TrainingOptions
from mervn.data.augmentation import NO_MASKS, SpecAugment
from mervn.data.split import BatchRequest, Split
from mervn.distributed import Processes
from mervn.training.sampling import (
    BatchSize,
    divide_batches,
    epoch_batches,
    mixed_lengths,
    padding_efficiency,
    sampling_weights,
)


class BatchPlan:
    """The batches of every epoch, a pure function of training split, options and epoch."""

    def __init__(
        self, train: Split, options: TrainingOptions, processes: Processes, spec_augment: SpecAugment = NO_MASKS
    ) -> None:
        self.train, self.options, self.processes, self.spec_augment = train, options, processes, spec_augment
        self.mixed_lengths = mixed_lengths(train.audio_seconds, train.syllables, options.alpha)
        self.weights = sampling_weights(train.targets, self.mixed_lengths, options.beta)
        lengths = np.array(list(train.lengths.values()), np.int32)  # (streams, N)
        self.batch_size = BatchSize(lengths, options.utterances_per_batch, options.frame_budget)
        self.usual_steps = self.num_steps(self.batches(0))
        """Optimizer steps of epoch 0. With a frame budget the number varies between epochs."""

    def batches(self, epoch: int) -> Batches:
        """Return the batches of an epoch, for all processes together, as indices into the split."""
        options = self.options
        return epoch_batches(options.sampling, self.mixed_lengths, self.weights, self.batch_size, options.seed, epoch)

    def num_steps(self, batches: Batches) -> int:
        """Return the number of optimizer steps for these batches."""
        return math.ceil(len(batches) / self.options.accumulate)

    def group(self, batches: Batches, step: int) -> list[list[int]]:
        """Return the batches whose gradients are accumulated for an optimizer step."""
        return batches[step * self.options.accumulate : (step + 1) * self.options.accumulate]

    def places(self, group: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the positions in each batch of a step that this process reads, possibly none."""
        if self.processes.num_processes == 1:
            return [list(range(len(batch))) for batch in group]
        frames = self.batch_size.lengths.sum(0)  # (N,) over all streams
        divided = divide_batches([frames[batch] for batch in group], self.processes.num_processes)
        return [portions[self.processes.process_index] for portions in divided]

    def requests(self, epoch: int, batches: Batches, first_step: int) -> list[BatchRequest]:
        """Return what this process reads from `first_step` to the end of the epoch, in order.

        Batches of which this process has no portion are left out. The mask of an utterance depends
        only on the seed, epoch, step, batch and place, not on the process.
        """
        requests = []
        for step in range(first_step, self.num_steps(batches)):
            group = self.group(batches, step)
            for number, (batch, places) in enumerate(zip(group, self.places(group), strict=True)):
                indices, seeds = [], []
                for place in places:
                    indices.append(batch[place])
                    seeds.append((self.options.seed, epoch, step, number, place))
                if places:
                    # an array takes a fifth of the memory of a list
                    requests.append(BatchRequest(array("i", indices), self.spec_augment.masks(seeds)))
        return requests

    def describe(self, batches: Batches, labels: Sequence[str]) -> Mapping[str, Any]:
        """Return statistics of the batches of an epoch, as a JSON object.

        They are the number of batches, the padding efficiency by stream (real over padded frames),
        the fraction of the draws by class, and the fraction of the utterances that were drawn.
        """
        indices = batches.order
        fractions = np.bincount(self.train.targets[indices], minlength=len(labels)) / len(indices)
        efficiency = {}
        for name, lengths in zip(self.train.lengths, self.batch_size.lengths, strict=True):
            efficiency[name] = padding_efficiency(lengths, batches)
        return {
            "batches": len(batches),
            "padding_efficiency": efficiency,
            "classes": dict(zip(labels, fractions.tolist(), strict=True)),
            "covered": len(np.unique(indices)) / len(self.train),
        }
