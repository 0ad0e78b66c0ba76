"""Checkpoints: everything that training needs to resume exactly.

`Trainer` and `Pretrainer` write them. A checkpoint is a folder that is written atomically.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from features.atomic_files import sync_folder, write_atomically
from features.errors import InputError
from features.memory import is_out_of_memory

TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"
CHECKPOINTS_FOLDER = "checkpoints"
"""The folder of a run that holds its checkpoints; removed when the run is complete."""


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON state to `folder`: under a temporary name, then sync and rename."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    write_atomically(temporary / TENSORS_FILE, content)
    write_atomically(temporary / STATE_FILE, json.dumps(state, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)  # atomic: a folder without the suffix is complete
    sync_folder(folder.parent)


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint, as it is on disk: its keys and shapes are not checked yet."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; InputError if it is damaged."""
    try:
        state = json.loads((folder / STATE_FILE).read_text("utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{STATE_FILE} must hold a JSON object")
        return Checkpoint(load_file(folder / TENSORS_FILE), state)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{folder} must be a complete checkpoint, found: {error}; train again with --force") from error


def numerics(model: nn.Module) -> dict[str, int]:
    """Return the numerics version of each kind of layer in a model that has one.

    Such a layer has been changed so that its results differ by rounding. A training that began with
    another version must not resume: it would equal no undisturbed training.
    """
    versions = {}
    for module in model.modules():
        version = getattr(module, "training_numerics", None)
        if version is not None:
            versions[type(module).__name__] = int(version)
    return versions


def load_training_checkpoint(folder: Path, num_processes: int, model: nn.Module) -> Checkpoint:
    """Read a checkpoint of a `Trainer`.

    InputError if it is damaged, of another version, of another number of processes, or if layers of
    the model had another numerics version.
    """
    checkpoint = load_checkpoint(folder)
    state = checkpoint.state
    if "epoch" not in state:
        raise InputError(f"{folder} must be a complete checkpoint of this version of mervn; train again with --force")
    if state.get("processes") != num_processes:
        raise InputError(
            f"{folder} was written by {state.get('processes')} processes, found {num_processes} now; start the "
            "same number, or train again with --force"
        )
    saved = state.get("numerics", {})
    for layer, version in numerics(model).items():
        found = saved.get(layer, 1) if isinstance(saved, dict) else saved  # versions before 2 were not recorded
        if found != version:
            raise InputError(
                f"{folder} was written by another version of mervn, whose {layer} rounds differently (numerics "
                f"{found}, here {version}): resumed here, the run would not equal an undisturbed one; resume it with "
                "that version, or train again with --force"
            )
    return checkpoint


@contextmanager
def restoring(checkpoint: Path) -> Iterator[None]:
    """Turn any error of restoring the content of a checkpoint into an InputError that names it.

    A lack of memory says nothing about the checkpoint, and is raised as it is.
    """
    try:
        yield
    except (InputError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        found = str(error) if isinstance(error, InputError) else repr(error)
        raise InputError(
            f"{checkpoint} must be a complete checkpoint, found: {found}; train again with --force"
        ) from error


def checkpoint_name(epoch: int, step: int | None = None) -> str:
    """Return the folder name of a checkpoint after an epoch (from 1), or after a step within it."""
    return f"epoch-{epoch:05d}" if step is None else f"epoch-{epoch:05d}-step-{step:06d}"


def _order(folder: Path) -> tuple[str, str]:
    """Return a sort key of checkpoints by time: the end of an epoch sorts after its steps."""
    epoch, step, number = folder.name.partition("-step-")
    return epoch, number if step else "end"  # letters sort after digits


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest complete checkpoint of a `checkpoints` folder; None if it has none."""
    return max(_complete(folder), default=None, key=_order)


def remove_older(folder: Path, latest: Path, keep: int = 1) -> None:
    """Remove all checkpoints after `latest`, and all but the last `keep` up to and including it."""
    checkpoints = sorted(_complete(folder), key=_order)
    while checkpoints and _order(checkpoints[-1]) > _order(latest):
        checkpoints.pop()  # written by an earlier attempt, which went further
    kept = checkpoints[-keep:]
    for path in folder.glob("epoch-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a `checkpoints` folder."""
    return [path for path in folder.glob("epoch-*") if path.suffix != ".tmp" and (path / STATE_FILE).is_file()]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named `optimizer.<parameter>.<entry>`."""
    tensors: dict[str, Tensor] = {}
    for i, entries in optimizer.state_dict()["state"].items():
        tensors |= with_prefix(f"optimizer.{i}.", entries)
    return tensors


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors that `optimizer_tensors` returned; the parameter groups keep their settings.

    InputError if an entry has another shape than its parameter.
    """
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, key = rest.partition(".")
            states.setdefault(int(number), {})[key] = tensor
    # load_state_dict requires groups: pass the current ones
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for key, entry in entries.items():
            # scalars, such as the step, do not have the shape of the parameter
            if entry.ndim and entry.shape != parameter.shape:
                raise InputError(
                    "the state of the optimizer must have the shapes of its parameters, found "
                    f"{key} of shape {tuple(entry.shape)} for a parameter of "
                    f"{tuple(parameter.shape)}"
                )


def rng_tensors() -> dict[str, Tensor]:
    """Return the states of torch's global random generators, which dropout draws from."""
    states = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"rng.cuda.{i}"] = state
    return states


def load_rng_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Restore generator states that `rng_tensors` returned."""
    torch.set_rng_state(tensors["rng.cpu"])
    for name, state in tensors.items():
        if name.startswith("rng.cuda.") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.rsplit(".", 1)[1]))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors renamed to `<prefix><name>`: one checkpoint can hold several groups."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it; inverse of `with_prefix`."""
    group = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            group[name.removeprefix(prefix)] = tensor
    return group


def require_same_shapes(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise InputError if names or shapes of weights are not the expected ones."""
    differing = expected.keys() ^ weights.keys()
    for name in expected.keys() & weights.keys():
        if expected[name].shape != weights[name].shape:
            differing.add(name)
    if differing:
        raise InputError(f"the weights must be those of this model, but {len(differing)} differ: {min(differing)}, ...")


@dataclass(frozen=True)
class CheckpointSchedule:
    """Checkpoint schedule: intervals, and the number of checkpoints to keep."""

    epochs: int = 0
    """Interval in epochs; 0: never."""
    steps: int = 0
    """Interval in steps within an epoch; 0: never."""
    keep: int = 1
    """Number of latest checkpoints to keep."""

    @property
    def is_active(self) -> bool:
        """Tell whether checkpoints are written; if so, an interruption writes one too."""
        return bool(self.epochs or self.steps)


NO_CHECKPOINTS = CheckpointSchedule()


@dataclass
class BestEpoch:
    """Weights and scores of the best epoch so far; of epochs with equal scores the first."""

    scores: tuple[float, ...]
    """Scores in order of priority, higher is better; at first lower than any real score."""
    epoch: int = -1
    improved: int = -1
    """Last epoch that improved the first score, for early stopping. An epoch that is only better by
    the second score does not count."""
    weights: dict[str, Tensor] | None = None

    def offer(self, epoch: int, scores: tuple[float, ...], weights: Mapping[str, Tensor]) -> bool:
        """Copy the weights of this epoch if it is the best so far; return True if it is."""
        if scores[0] > self.scores[0]:
            self.improved = epoch
        if scores <= self.scores:
            return False
        self.epoch, self.scores = epoch, scores
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return True
