"""Probabilities of a split, and the lines of a predictions file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mervn.dataset import Split
from mervn.live import LiveSplit


def predict(model: nn.Module, split: Split | LiveSplit, device: torch.device) -> np.ndarray[Any, Any]:
    """Return probabilities (N, C) float64 in the order of the split, in eval mode."""
    batches = split.evaluation_batches(device)
    was_training = model.training
    model.eval()
    split.expect(batches)
    with torch.inference_mode():
        chunks = [model(split.batch(batch, device)).double().softmax(-1).cpu() for batch in batches]
    model.train(was_training)
    probabilities = np.empty((len(split), chunks[0].shape[1]))
    probabilities[[i for batch in batches for i in batch]] = torch.cat(chunks).numpy()
    return probabilities


def prediction_rows(
    split: Split | LiveSplit, probabilities: np.ndarray[Any, Any], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one object an utterance, in the order of the manifest; the manifest's own extra keys travel along."""
    rows = []
    for utterance, row in zip(split.utterances, probabilities, strict=True):
        chosen: dict[str, Any] = {
            "utterance_id": utterance.utterance_id,
            "label": utterance.emotion,
            "prediction": labels[int(row.argmax())],
            "probabilities": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        rows.append(chosen | {key: value for key, value in utterance.extra.items() if key not in chosen})
    return rows
