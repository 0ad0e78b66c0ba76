"""Probabilities of a split, and the lines of a predictions file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import nn

from features.device import exact_fp32
from features.errors import InputError
from features.memory import MemoryBudget
from features.progress import Progress, no_bar
from mervn.data.stored_split import Split
from mervn.data.waveform_split import LiveSplit
from mervn.distributed import ALONE, World


def predict(
    model: nn.Module,
    split: Split | LiveSplit,
    device: torch.device,
    world: World = ALONE,
    progress: Progress = no_bar,
) -> np.ndarray[Any, Any]:
    """Return probabilities (N, C) float64 in the order of the split, in eval mode; several processes share it.

    They are computed in exact fp32, whatever precision the model is trained in. A batch that does not fit into memory
    is halved; InputError if an utterance does not fit alone.
    """
    batches = world.share(split.evaluation_batches(device))
    costs, budget = split.costs, MemoryBudget(device)
    found = []

    def score(part: list[int]) -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = model(split.batch(part, device)).double().softmax(-1).cpu().numpy()
        return rows

    was_training = model.training
    model.eval()
    split.expect(batches)
    bar = progress(sum(map(len, batches)), 0, f"scoring {split.name}")
    with closing(bar), exact_fp32(), torch.inference_mode():
        for batch in batches:
            for part, rows in budget.run(batch, costs, score):
                if rows is None:
                    u = split.utterances[part[0]]
                    raise InputError(f"{u.file}:{u.line} {u.utterance_id!r} alone must fit into the memory of {device}")
                found.append((part, rows))
                bar.update(len(part))
    model.train(was_training)
    pairs = [pair for part in world.gather(found) for pair in part]
    probabilities = np.empty((len(split), pairs[0][1].shape[1]))
    for part, rows in pairs:
        probabilities[part] = rows
    return probabilities


def prediction_entries(
    split: Split | LiveSplit, probabilities: np.ndarray[Any, Any], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one object an utterance, in the order of the manifest; the manifest's own extra keys travel along."""
    rows = []
    for utterance, row in zip(split.utterances, probabilities, strict=True):
        chosen: dict[str, Any] = {
            "utterance_id": utterance.utterance_id,
            "speaker_id": utterance.speaker_id,
            "label": utterance.emotion,
            "prediction": labels[int(row.argmax())],
            "probabilities": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        rows.append(chosen | {key: value for key, value in utterance.extra.items() if key not in chosen})
    return rows
