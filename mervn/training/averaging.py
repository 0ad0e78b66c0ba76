"""Average of the weights of the last epochs: `--average-last`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from features.errors import InputError
from mervn.training.checkpoint import require_same_shapes, with_prefix, without_prefix


def averaged_epochs(epoch: int, count: int) -> list[int]:
    """Return the epochs whose weights are averaged: the last `count` up to and including `epoch`.

    There are fewer in the first epochs. Epoch 0, the model before training, stands alone.
    """
    return list(range(max(1, epoch - count + 1), epoch + 1)) if epoch else [0]


class RecentWeights:
    """Weights of the last epochs, on the CPU, for the mean of the last `count` epochs.

    Averages of checkpoints of one training: Izmailov et al. 2018 (arXiv 1803.05407), section 3.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._by_epoch: dict[int, dict[str, Tensor]] = {}
        """At most count - 1 epochs: those that the mean of the next epoch needs."""

    def add(self, epoch: int, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add the weights of an epoch and return the mean of the last `count` epochs.

        Integer tensors, such as counters, are those of this epoch.
        """
        if self.count == 1 or epoch == 0:
            return weights
        self._by_epoch[epoch] = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        mean = _mean([self._by_epoch[each] for each in averaged_epochs(epoch, self.count)])
        self._by_epoch.pop(epoch - self.count + 1, None)
        return mean

    def tensors(self) -> dict[str, Tensor]:
        """Return the kept weights as tensors named `<epoch>.<name>`, for a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for epoch, weights in self._by_epoch.items():
            tensors |= with_prefix(f"{epoch}.", weights)
        return tensors

    def load(self, tensors: Mapping[str, Tensor], epoch: int, expected: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned after `epoch`.

        InputError if epochs, names or shapes differ from the expected ones.
        """
        wanted = averaged_epochs(epoch, self.count - 1) if self.count > 1 and epoch > 0 else []
        found = sorted({int(name.partition(".")[0]) for name in tensors})
        if found != wanted:
            raise InputError(f"the weights must be those of the epochs {wanted}, found {found}")
        self._by_epoch = {each: without_prefix(f"{each}.", tensors) for each in wanted}
        for weights in self._by_epoch.values():
            require_same_shapes(expected, weights)


def _mean(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each floating-point tensor, summed in float64; any other from the last."""
    mean = dict(weights[-1])
    for name, last in mean.items():
        if last.is_floating_point():
            total = torch.zeros_like(last, dtype=torch.float64)
            for each in weights:
                total += each[name]
            mean[name] = (total / len(weights)).to(last.dtype)
    return mean
