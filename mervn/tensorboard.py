"""The history of a run as TensorBoard shows it, beside history.jsonl."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from features.errors import UsageError
from features.progress import Say

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise a UsageError that says what to install where TensorBoard is not there."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError('--tensorboard needs TensorBoard: pip install "mervn[tensorboard]"') from error


def write_history(run: Path, say: Say) -> None:
    """Write the history of a complete run for TensorBoard, unless it is there."""
    folder = run / FOLDER
    if _has_events(folder):
        say(f"{folder}: the history is there already")
        return
    with closing(TensorBoard(folder)) as board:
        for entry in _entries(run):
            board.add(entry)
    say(f"{folder}: the history of the complete run, for TensorBoard")


def _has_events(folder: Path) -> bool:
    return any(folder.glob("events.*"))


def _entries(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]


class TensorBoard:
    """Writes entries of the history; what a run wrote beyond the epoch it is resumed from is hidden."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def add(self, entry: dict[str, Any]) -> None:
        """Write the entry of one epoch."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            missing = [] if _has_events(self.folder) else _entries(self.folder.parent)
            self._writer = SummaryWriter(str(self.folder), purge_step=entry["epoch"])
            for earlier in missing:  # trained without --tensorboard before it was resumed
                if earlier["epoch"] < entry["epoch"]:
                    self._write(earlier)
        self._write(entry)
        self._writer.flush()

    def _write(self, entry: dict[str, Any]) -> None:
        epoch = entry["epoch"]
        scalars = {f"valid/{name}": value for name, value in entry["valid"].items()}
        if "drawn" in entry:  # epoch 0 of a whole model is scored, not trained
            scalars |= {"train/loss": entry["train_loss"], "train/learning_rate": entry["learning_rate"]}
            drawn = entry["drawn"]
            scalars |= {f"drawn/{name}": share for name, share in drawn["classes"].items()}
            scalars |= {f"padding_efficiency/{name}": share for name, share in drawn["padding_efficiency"].items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
