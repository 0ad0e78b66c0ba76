"""TensorBoard event files of a run, with the same values as history.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError
from features.progress import Reporter
from mervn.training.history import HISTORY_FILE

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise UsageError if TensorBoard is not installed; the message tells how to install it."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError('--tensorboard needs TensorBoard: pip install "mervn[tensorboard]"') from error


def write_history(run: Path, reporter: Reporter) -> None:
    """Write the whole history of a complete run for TensorBoard.

    Existing event files are replaced, because those of a run that was resumed without --tensorboard
    lack epochs. InputError if history.jsonl is missing or damaged.
    """
    entries = _entries(run)
    with closing(TensorBoard(run)) as board:
        for entry in entries:
            board.add(entry)
    reporter.say(f"history of the complete run written for TensorBoard: {run / FOLDER}")


def _entries(run: Path) -> list[dict[str, Any]]:
    """Return the entries of history.jsonl; InputError if it is missing or damaged."""
    path = run / HISTORY_FILE
    entries, epochs = [], []
    try:
        for line in path.read_text("utf-8").splitlines():
            entry = json.loads(line)
            _scalars(entry)  # fails if an entry lacks values
            entries.append(entry)
            epochs.append(int(entry["epoch"]))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must hold the history of the run, one JSON object per epoch, found: {error!r}"
        ) from error
    if not epochs or epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        raise InputError(f"{path} must hold the history of the run with consecutive epochs, found epochs {epochs}")
    return entries


def _scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of one epoch by their TensorBoard tags."""
    groups = {"valid": entry["valid"]}
    if "drawn" in entry:  # epoch 0 of `finetune` is scored, not trained
        drawn = entry["drawn"]
        groups["train"] = {"loss": entry["train_loss"], "learning_rate": entry["learning_rate"]}
        groups |= {"drawn": drawn["classes"], "padding_efficiency": drawn["padding_efficiency"]}
    scalars = {}
    for group, values in groups.items():
        for name, value in values.items():
            scalars[f"{group}/{name}"] = float(value)
    return scalars


class TensorBoard:
    """Writer of the event files of a run.

    With its first entry it also writes the earlier epochs, from history.jsonl.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / FOLDER
        self._writer: Any = None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write the entry of one epoch; InputError if the history of earlier epochs is damaged."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            history = _entries(self.run)
            # existing files may lack epochs, or have later ones than the resumed epoch
            for path in self.folder.glob("events.*"):
                path.unlink()
            self._writer = SummaryWriter(str(self.folder))
            for earlier in history:
                if earlier["epoch"] < entry["epoch"]:
                    self._write(earlier)
        self._write(entry)
        self._writer.flush()

    def _write(self, entry: Mapping[str, Any]) -> None:
        for name, value in _scalars(entry).items():
            self._writer.add_scalar(name, value, entry["epoch"])

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
