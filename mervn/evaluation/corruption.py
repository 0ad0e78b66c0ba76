"""Scores with corrupted transcripts beside those with the original ones: the paired difference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from mervn.data.corrupted import Corruption
from mervn.evaluation.compare import unit_difference
from mervn.evaluation.evidence import ScoredUtterances
from mervn.evaluation.intervals import METRICS, group_units, score

Array = np.ndarray[Any, Any]


def describe_corruption(corruptions: Sequence[Corruption]) -> dict[str, Any]:
    """Return what was corrupted, over the utterances of all folds."""
    original = [utterance for one in corruptions for utterance in one.original]
    together = Corruption(corruptions[0].kind, original, [other for one in corruptions for other in one.utterances])
    return {
        "kind": together.kind,
        "changed_transcripts": together.changed,
        "syllable_error_rate": together.syllable_error_rate,
    }


def corruption_scores(
    corrupted: Sequence[ScoredUtterances], clean: Sequence[ScoredUtterances], num_classes: int
) -> dict[str, Any]:
    """Return the scores with the original transcripts, and the differences corrupted minus original.

    corrupted, clean: for each seed its predictions for the same utterances in the same order. Of
    several units, the difference by the one that shows least is reported, as in `compare`.
    """
    scores, differences = {}, {}
    targets = clean[0].targets
    for metric in METRICS:
        scores[metric] = statistics.fmean(_score(seed, metric, num_classes) for seed in clean)
        found = []
        for key, values in clean[0].units.items():
            predictions = [seed.predictions for seed in corrupted], [seed.predictions for seed in clean]
            found.append(unit_difference(targets, predictions, key, group_units(values, key), metric, num_classes))
        decisive = max(found, key=lambda each: each.caution)
        differences[metric] = {"key": decisive.key, "unit": decisive.units.name, **decisive.paired.as_json()}
    return {"original": scores, "difference": differences}


def _score(seed: ScoredUtterances, metric: str, num_classes: int) -> float:
    """Return a metric of the predictions of one seed."""
    cells = np.bincount(seed.targets * num_classes + seed.predictions, minlength=num_classes**2)
    return float(score(cells.reshape(num_classes, num_classes), metric))
