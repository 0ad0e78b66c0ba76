"""Checkpoints of a training: everything it needs to resume exactly; a folder exists whole or not at all.

`Trainer` and `Pretrainer` write them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

from features.atomic_files import sync_folder, write_atomically
from features.errors import InputError

TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON state as `folder`: made under a temporary name, fsynced, renamed."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    write_atomically(temporary / TENSORS_FILE, content)
    write_atomically(temporary / STATE_FILE, json.dumps(state, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    sync_folder(folder.parent)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint; InputError if it is damaged."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text("utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{STATE_FILE} holds no JSON object")
        return load_file(folder / TENSORS_FILE), state
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{folder} must be a complete checkpoint, found: {error}; train again with --force") from error


def checkpoint_name(epoch: int, step: int | None = None) -> str:
    """Return the name of the folder of a checkpoint after an epoch, or after a step of it; epochs count from 1."""
    return f"epoch-{epoch:05d}" if step is None else f"epoch-{epoch:05d}-step-{step:06d}"


def _order(folder: Path) -> tuple[str, str]:
    """Sort checkpoints by time: the end of an epoch comes after its steps."""
    epoch, step, number = folder.name.partition("-step-")
    return epoch, number if step else "end"


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint of a `checkpoints` folder, by name."""
    return max(_whole(folder), default=None, key=_order)


def remove_older(folder: Path, latest: Path, keep: int = 1) -> None:
    """Remove every checkpoint of a `checkpoints` folder but the `keep` latest; what comes after `latest` goes too."""
    before = [path for path in _whole(folder) if _order(path) <= _order(latest)]
    kept = sorted(before, key=_order)[-keep:]
    for path in folder.glob("epoch-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _whole(folder: Path) -> list[Path]:
    return [path for path in folder.glob("epoch-*") if path.suffix != ".tmp" and (path / STATE_FILE).is_file()]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `optimizer.<parameter>.<entry>`."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": value for i, entries in states.items() for key, value in entries.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; the parameter groups stay as they were built.

    InputError where an entry has another shape than its parameter.
    """
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, key = rest.partition(".")
            states.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        wrong = [key for key, entry in entries.items() if entry.ndim and entry.shape != parameter.shape]
        if wrong:
            found = f"{tuple(entries[wrong[0]].shape)}, not {tuple(parameter.shape)}"
            raise InputError(f"the state of the optimizer must have the shapes of its parameters, found {found}")


def rng_tensors() -> dict[str, Tensor]:
    """Return the states of torch's global generators, which dropout draws from."""
    states = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states.update({f"rng.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())})
    return states


def load_rng_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Put back what `rng_tensors` gave."""
    torch.set_rng_state(tensors["rng.cpu"])
    for name, state in tensors.items():
        if name.startswith("rng.cuda.") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.rsplit(".", 1)[1]))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors named `<prefix><name>`, as a checkpoint holds several groups of them."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the group of a prefix, under the names it had before `with_prefix`."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class CheckpointSchedule:
    """Schedule of checkpoints: when they are written, and how many are kept."""

    epochs: int = 0
    """Every so many epochs; 0: never."""
    steps: int = 0
    """Every so many steps within an epoch; 0: never."""
    keep: int = 1

    @property
    def is_active(self) -> bool:
        """Tell whether checkpoints are written at all; then an interrupt writes one too."""
        return bool(self.epochs or self.steps)


NO_CHECKPOINTS = CheckpointSchedule()


@dataclass
class BestEpoch:
    """The weights of the best epoch so far; the earlier one among equals."""

    scores: tuple[float, ...]
    """Higher is better, compared in order; at first lower than any."""
    epoch: int = -1
    improved: int = -1
    """The last epoch whose first score was above all before it; a tie that the next score decides does not count."""
    weights: dict[str, Tensor] | None = None

    def offer(self, epoch: int, scores: tuple[float, ...], weights: Mapping[str, Tensor]) -> bool:
        """Keep a copy of this epoch's weights if it is the best; return whether it is."""
        if scores[0] > self.scores[0]:
            self.improved = epoch
        if scores <= self.scores:
            return False
        self.epoch, self.scores = epoch, scores
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return True
