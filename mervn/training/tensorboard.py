"""The history of a run as TensorBoard shows it, beside history.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError
from features.progress import Reporter

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise a UsageError that says what to install if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError('--tensorboard needs TensorBoard: pip install "mervn[tensorboard]"') from error


def write_history(run: Path, reporter: Reporter) -> None:
    """Write the whole history of a complete run for TensorBoard; InputError where history.jsonl is missing or damaged.

    What is there is replaced: a run that was resumed without --tensorboard has written a part of it alone.
    """
    entries = _entries(run)
    with closing(TensorBoard(run / FOLDER)) as board:
        for entry in entries:
            board.add(entry)
    reporter.say(f"{run / FOLDER}: the history of the complete run, for TensorBoard")


def _entries(run: Path) -> list[dict[str, Any]]:
    path = run / "history.jsonl"
    try:
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found = [(int(entry["epoch"]), _scalars(entry))[0] for entry in entries]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} must hold the history of the run, an object an epoch, found: {error!r}") from error
    if not found or found != list(range(found[0], found[0] + len(found))):
        raise InputError(f"{path} must hold the history of the run, epoch by epoch, found the epochs {found}")
    return entries


def _scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return what TensorBoard shows of one epoch."""
    scalars = {f"valid/{name}": value for name, value in entry["valid"].items()}
    if "drawn" in entry:  # epoch 0 of a whole model is scored, not trained
        scalars |= {"train/loss": entry["train_loss"], "train/learning_rate": entry["learning_rate"]}
        drawn = entry["drawn"]
        scalars |= {f"drawn/{name}": share for name, share in drawn["classes"].items()}
        scalars |= {f"padding_efficiency/{name}": share for name, share in drawn["padding_efficiency"].items()}
    return {name: float(value) for name, value in scalars.items()}


class TensorBoard:
    """Writes entries of the history, and before the first one those of earlier epochs, in place of what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write the entry of one epoch; InputError where the history of the epochs before it is damaged."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            earlier = [each for each in _entries(self.folder.parent) if each["epoch"] < entry["epoch"]]
            for path in self.folder.glob("events.*"):  # may lack epochs, or go beyond the one that is resumed
                path.unlink()
            self._writer = SummaryWriter(str(self.folder))
            for each in earlier:
                self._write(each)
        self._write(entry)
        self._writer.flush()

    def _write(self, entry: Mapping[str, Any]) -> None:
        for name, value in _scalars(entry).items():
            self._writer.add_scalar(name, value, entry["epoch"])

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
