"""When the checkpoints of a training are written, and the best epoch that they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written, and how many are kept."""

    epochs: int = 0
    """Every so many epochs; 0 for none."""
    steps: int = 0
    """And every so many steps within an epoch."""
    keep: int = 1

    @property
    def any(self) -> bool:
        """Tell whether checkpoints are written at all; then an interrupt writes one too."""
        return bool(self.epochs or self.steps)


NO_SAVING = Saving()


@dataclass
class Best:
    """The best epoch so far by valid macro-F1; among equals the one with the lower valid NLL, then the earlier."""

    epoch: int = -1
    macro_f1: float = -1.0
    nll: float = math.inf
    weights: dict[str, Tensor] | None = None
    improved: int = -1
    """The last epoch with a higher macro-F1 than all before it; a lower NLL at an equal one is no improvement."""

    def offer(self, epoch: int, macro_f1: float, nll: float, weights: Mapping[str, Tensor]) -> None:
        """Take this epoch if it is better."""
        if macro_f1 > self.macro_f1:
            self.improved = epoch
        if (macro_f1, -nll) > (self.macro_f1, -self.nll):
            self.epoch, self.macro_f1, self.nll = epoch, macro_f1, nll
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
