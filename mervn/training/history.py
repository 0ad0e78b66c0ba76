"""history.jsonl: what each epoch of a training brought."""

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
    """One epoch of training a head; epochs count from 1, epoch 0 is a model that was scored before its training."""

    epoch: int
    valid: Mapping[str, float]
    """accuracy, macro_f1 and nll on valid."""
    best_epoch: int
    seconds: float
    loader_seconds: float
    """Time spent waiting for data."""
    train_loss: float | None = None
    """Mean over the utterances; None for epoch 0, as are the following."""
    learning_rate: float | None = None
    """Of the last step."""
    drawn: Mapping[str, Any] | None = None
    """What the sampler drew: see `BatchPlan.describe`."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object without the fields that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class History:
    """The history.jsonl of one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY_FILE

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add the entry of one epoch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, sort_keys=True) + "\n")

    def cut(self, count: int) -> None:
        """Keep the first `count` entries: a training that is resumed writes the others again."""
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        write_atomically(self.path, "".join(line + "\n" for line in lines[:count]))
