"""history.jsonl: losses, scores and times of each epoch of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class HistoryEntry:
    """One epoch of training.

    Epochs count from 1. Epoch 0 is the model before training, which is only scored.
    """

    epoch: int
    valid: Mapping[str, float]
    """accuracy, macro_f1 and nll on valid."""
    best_epoch: int
    """Best epoch so far."""
    seconds: float
    """Duration of training and scoring."""
    loader_seconds: float
    """Time spent waiting for batches."""
    train_loss: float | None = None
    """Mean over the utterances. None for epoch 0, like the following fields."""
    learning_rate: float | None = None
    """Learning rate of the last step of the epoch."""
    drawn: Mapping[str, Any] | None = None
    """Statistics of the sampled batches: see `BatchPlan.describe`."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object without the fields that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class History:
    """Writer of the history.jsonl of one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY_FILE

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add the entry of one epoch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, sort_keys=True) + "\n")

    def cut(self, count: int) -> None:
        """Keep only the first `count` entries: a resumed training writes the others again."""
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        write_atomically(self.path, "\n".join([*lines[:count], ""]))
