"""`evaluate` for a series: score every run, pool folds, and average over seeds."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError, UsageError
from features.progress import SILENT, OncePerLine, Reporter
from mervn.config import EvaluateOptions
from mervn.data.split import Split
from mervn.evaluation.corruption import corruption_scores, describe_corruption
from mervn.evaluation.evaluate import ScoredRun, prepare, score_run
from mervn.evaluation.evidence import ScoredUtterances, evidence, pooled
from mervn.evaluation.intervals import METRICS, score
from mervn.evaluation.leak_baselines import leak_scores
from mervn.evaluation.ledger import Look, record_look
from mervn.evaluation.open_run import OpenedRun, open_run, results_name
from mervn.evaluation.overlap import shared_overlaps
from mervn.evaluation.own_data import has_same_manifests, with_own_data
from mervn.evaluation.series import Key, Series, read_series
from mervn.evaluation.shuffled_labels import shuffled_scores
from mervn.run_folder import SCHEMA, write_json


def evaluate_series(folder: Path, options: EvaluateOptions, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Score every run of a series on a split and return the metrics of the series.

    Each run gets its metrics-<split>.json and predictions-<split>.jsonl, as `evaluate` writes them.
    For each seed the utterances of all folds are scored together. The metrics-<split>.json of the
    series holds mean and standard deviation (n - 1) over seeds. All runs together are one look at
    the test split. Raises the errors of `evaluate` before a run is scored, and UsageError for folds
    with other data, where every fold would be scored on the same utterances.
    """
    series = read_series(folder)
    options = with_own_data(series.first, options)
    is_other = options.data is not None and not has_same_manifests(series.first, options.data)
    if is_other and len(series.folds) > 1:
        raise UsageError(f"--data cannot be given for the folds of {folder}; evaluate their runs one by one")
    opened = {key: open_run(run, options, reporter) for key, run in series.runs.items()}
    _refuse_other_utterances(series, opened)
    once = OncePerLine(reporter)
    with shared_overlaps():
        preparations = {key: prepare(run, options, once) for key, run in opened.items()}
    members = [run.look for run in opened.values()]
    look, looks = _joined(members), None
    if options.split == "test":
        looks = record_look(folder, next(iter(opened.values())).data, look, reporter, members)
    scored: dict[Key, ScoredRun] = {}
    is_own = all(run.is_own for run in opened.values())
    for key, run in series.runs.items():
        reporter.say(f"{run.relative_to(folder)}:")
        scored[key] = score_run(opened.pop(key), preparations[key], options, reporter)  # free its features
    metrics = _summarise(series, scored, options)
    name = results_name(options.split, is_own, look, options.change)
    write_json(folder / f"metrics-{name}.json", metrics)
    if looks is not None:
        metrics["test_looks"] = looks
    return metrics


def _refuse_other_utterances(series: Series, opened: Mapping[Key, OpenedRun]) -> None:
    """Raise InputError unless all seeds of a fold are scored on the same utterances and labels.

    A run that was replaced by one on other data would be averaged with the others.
    """
    for seed, fold in series.runs:
        first, split = opened[series.seeds[0], fold].split, opened[seed, fold].split
        if _ids(first) != _ids(split) or not np.array_equal(first.targets, split.targets):
            raise InputError(
                f"all seeds must be scored on the same utterances and labels, but {series.runs[seed, fold]} has others "
                f"than {series.runs[series.seeds[0], fold]}; train it again"
            )


def _ids(split: Split) -> list[str]:
    """Return the ids of the utterances."""
    return [utterance.utterance_id for utterance in split.utterances]


def _joined(looks: Sequence[Look]) -> Look:
    """Return the one look that stands for the looks of all runs."""
    run_hash = _joined_sha256([look.run_hash for look in looks])[:8]
    weights = _joined_sha256([look.weights_sha256 for look in looks])
    return Look(run_hash, weights, _joined_sha256([look.inputs_sha256 for look in looks]))


def _joined_sha256(hashes: Sequence[str]) -> str:
    """Hash several hashes in their order."""
    return hashlib.sha256("|".join(hashes).encode()).hexdigest()


def _summarise(series: Series, scored: Mapping[Key, ScoredRun], options: EvaluateOptions) -> dict[str, Any]:
    """Return the metrics-<split>.json of a series."""
    labels, split = list(series.first.labels), options.split
    seeds = []
    for seed in series.seeds:
        seeds.append(pooled([scored[seed, fold].utterances for fold in series.folds]))
    runs, missing = [], 0
    for (seed, fold), run in scored.items():
        scores = run.metrics[split]
        path = series.runs[seed, fold].relative_to(series.path).as_posix()
        entry = {"run": path, "seed": seed, "fold": fold, "n": scores["n"], "missing": scores["missing"]}
        runs.append({**entry, **{metric: scores[metric] for metric in METRICS}})
        missing += scores["missing"] if seed == series.seeds[0] else 0
    return {
        "schema": SCHEMA,
        "labels": labels,
        "seeds": series.seeds,
        "folds": [fold for fold in series.folds if fold is not None],
        "runs": runs,
        **({} if options.without is None else {"without": options.without}),
        split: {"n": len(seeds[0].targets), "missing": missing, **_over_seeds(seeds, len(labels))},
        **evidence(seeds, labels),
        **_leaks([scored[series.seeds[0], fold] for fold in series.folds], labels),
        **_corruption(series, scored, seeds),
    }


def _corruption(series: Series, scored: Mapping[Key, ScoredRun], seeds: Sequence[ScoredUtterances]) -> dict[str, Any]:
    """Return `corrupt` over seeds and the utterances of all folds; empty without --corrupt."""
    kinds = [scored[series.seeds[0], fold].corruption for fold in series.folds]
    corruptions = [kind for kind in kinds if kind is not None]
    if not corruptions:
        return {}
    original = []
    for seed in series.seeds:
        parts = [scored[seed, fold].original for fold in series.folds]
        original.append(pooled([part for part in parts if part is not None]))
    scores = corruption_scores(seeds, original, len(series.first.labels))
    return {"corrupt": describe_corruption(corruptions) | scores}


def _leaks(folds: Sequence[ScoredRun], labels: Sequence[str]) -> dict[str, Any]:
    """Return `leak_baselines` over the utterances of all folds; empty if they were not asked for.

    They do not depend on the seed.
    """
    if not folds[0].leaks:
        return {}
    together: dict[str, ScoredUtterances | None] = {}
    for name in folds[0].leaks:
        parts = [fold.leaks[name] for fold in folds]
        known = [part for part in parts if part is not None]
        together[name] = pooled(known) if len(known) == len(parts) else None
    of_shuffled = None
    if all(fold.shuffled for fold in folds):
        by_fold = [fold.shuffled for fold in folds]
        shuffles = [pooled(parts) for parts in zip(*by_fold, strict=True)]
        of_shuffled = shuffled_scores(shuffles, len(labels))
    return {"leak_baselines": leak_scores(together, labels) | {"shuffled_labels": of_shuffled}}


def _over_seeds(seeds: Sequence[ScoredUtterances], num_classes: int) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation (None for one seed) and values of each metric over seeds."""
    confusions = []
    for seed in seeds:
        cells = np.bincount(seed.targets * num_classes + seed.predictions, minlength=num_classes**2)
        confusions.append(cells.reshape(num_classes, num_classes))
    found = {}
    for metric in METRICS:
        values = score(np.stack(confusions), metric).tolist()
        std = statistics.stdev(values) if len(values) > 1 else None
        found[metric] = {"mean": statistics.fmean(values), "std": std, "values": values}
    return found
