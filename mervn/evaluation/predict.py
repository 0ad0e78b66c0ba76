"""Prediction: class probabilities of a split, and the entries of predictions.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from features.device import exact_fp32
from features.errors import InputError
from features.memory import MemoryBudget
from features.progress import SILENT, Reporter
from mervn.data.split import Batch, BatchRequest, Split
from mervn.distributed import SINGLE_PROCESS, Processes

Array = np.ndarray[Any, Any]


def predict(
    model: nn.Module,
    split: Split,
    device: torch.device,
    processes: Processes = SINGLE_PROCESS,
    reporter: Reporter = SILENT,
) -> Array:
    """Return probabilities (N, C) float64 in the order of the split, with the model in eval mode.

    Several processes divide the work. Prediction always uses exact fp32, independent of the
    precision of training. A batch that does not fit into memory is halved; InputError if a
    single utterance does not fit, or if a probability is not finite.
    """
    mine = processes.portion(split.evaluation_batches(device))
    plan = list(map(BatchRequest, mine))
    costs, budget = split.costs, MemoryBudget(device)
    scored: list[tuple[list[int], torch.Tensor]] = []
    was_training = model.training
    model.eval()
    with (
        closing(reporter.progress(sum(map(len, mine)), 0, f"scoring {split.name}")) as bar,
        exact_fp32(),
        torch.inference_mode(),
    ):
        for batch in split.batches(plan, device):
            for part, probabilities in budget.run(batch.indices, costs, _scorer(model, batch)):
                if probabilities is None:
                    one = split.utterances[part[0]]
                    place = f"{one.file}:{one.line} {one.utterance_id!r}"
                    raise InputError(f"{place} must fit into the memory of {device}")
                scored.append((part, probabilities))
                bar.update(len(part))
    model.train(was_training)
    # every process gets all predictions
    return _in_order(split, list(chain.from_iterable(processes.gather(_on_host(scored)))))


def _on_host(scored: Sequence[tuple[list[int], torch.Tensor]]) -> list[tuple[list[int], Array]]:
    """Copy the probabilities of all parts from the device at once, so that it is waited for only here."""
    if not scored:
        return []
    host = torch.cat([probabilities for _, probabilities in scored]).cpu()
    arrays = host.split([len(part) for part, _ in scored])
    return [(part, array.numpy()) for (part, _), array in zip(scored, arrays, strict=True)]


def _in_order(split: Split, pairs: Sequence[tuple[list[int], Array]]) -> Array:
    """Return the probabilities (N, C) of all parts in the order of the split; InputError for NaN."""
    result = np.empty((len(split), pairs[0][1].shape[1]))
    for part, probabilities in pairs:
        result[part] = probabilities
    for index in np.flatnonzero(~np.isfinite(result).all(1))[:1]:
        # the most probable label of NaN would be the first one
        one = split.utterances[index]
        place = f"{one.file}:{one.line} {one.utterance_id!r}"
        raise InputError(f"the model must give finite probabilities, found {result[index].tolist()} for {place}")
    return result


def _scorer(model: nn.Module, batch: Batch) -> Callable[[list[int]], torch.Tensor]:
    """Return a function from a part of a batch, as indices, to probabilities (B, C) float64 on the device."""

    def score(part: list[int]) -> torch.Tensor:
        logits: torch.Tensor = model(batch.inputs(part))
        return logits.double().softmax(-1)

    return score


def prediction_entries(
    split: Split, probabilities: Array, labels: Sequence[str], units: Mapping[str, Sequence[Any]] | None = None
) -> list[dict[str, Any]]:
    """Return one JSON object per utterance, in the order of the split, with its extra keys.

    `units` are the values of the keys of --unit. They are saved too, for `mervn compare`.
    """
    entries = []
    for number, (utterance, scores) in enumerate(zip(split.utterances, probabilities, strict=True)):
        entry: dict[str, Any] = {
            "utterance_id": utterance.utterance_id,
            "speaker_id": utterance.speaker_id,
            "label": utterance.emotion,
            "prediction": labels[int(scores.argmax())],
            "probabilities": dict(zip(labels, scores.tolist(), strict=True)),
        }
        for key, value in utterance.extra.items():
            entry.setdefault(key, value)  # extra keys never replace ours
        for key, values in (units or {}).items():
            entry.setdefault(key, values[number])
        entries.append(entry)
    return entries
