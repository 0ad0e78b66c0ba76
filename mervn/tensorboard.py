"""The history of a run as TensorBoard shows it, beside history.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import UsageError


def require_tensorboard() -> None:
    """Raise a UsageError that says what to install where TensorBoard is not there."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError('--tensorboard needs TensorBoard: pip install "mervn[tensorboard]"') from error


class TensorBoard:
    """Writes entries of the history; what a run wrote beyond the epoch it is resumed from is hidden."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def add(self, entry: dict[str, Any]) -> None:
        """Write the entry of one epoch."""
        epoch = entry["epoch"]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
        scalars = {f"valid/{name}": value for name, value in entry["valid"].items()}
        if "drawn" in entry:  # epoch 0 of a whole model is scored, not trained
            scalars |= {"train/loss": entry["train_loss"], "train/learning_rate": entry["learning_rate"]}
            drawn = entry["drawn"]
            scalars |= {f"drawn/{name}": share for name, share in drawn["classes"].items()}
            scalars |= {f"padding_efficiency/{name}": share for name, share in drawn["padding_efficiency"].items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
