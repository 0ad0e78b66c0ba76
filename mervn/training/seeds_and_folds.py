"""`train-head --num-seeds` and `--fold all`: runs that differ in their seed or fold alone, and what they come to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.manifests.folds import find_folds
from features.progress import Say
from mervn.config import TrainHeadOptions
from mervn.run_folder import SCHEMA, default_folder, write_json
from mervn.training.results import RunResult
from mervn.training.setup import configuration, encoders_of, open_training, resolved
from mervn.training.train_head import train_prepared
from mervn.training.trainer import Report

SUMMARY_FILE = "summary.json"
SCORES = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class SeriesResult:
    """Runs that differ in their seed or fold alone."""

    path: Path
    runs: list[RunResult]
    summary: Mapping[str, Any]


def train_series(options: TrainHeadOptions, data: Path, say: Say, report: Report) -> SeriesResult:
    """Train `num_seeds` heads on each fold that `fold` means, each a run of its own below one folder.

    The features of a fold are opened once for all seeds. Writes summary.json: the scores on valid of every run, their
    mean and standard deviation (of the sample, n - 1) over all runs, and of each fold over its seeds.
    """
    folds = [options.fold]
    if options.fold == "all":
        folds = [str(number + 1) for number in range(len(find_folds(data, options.fold_file)))]
    seeds = range(options.seed, options.seed + options.num_seeds)
    folder = options.output
    depth = (len(folds) > 1) + (len(seeds) > 1)
    runs: dict[str | None, list[RunResult]] = {fold: [] for fold in folds}
    for fold in folds:
        chosen = options.model_copy(update={"fold": fold})
        prepared = open_training(chosen, data, say)
        if folder is None:
            first = default_folder(configuration(resolved(chosen), prepared), encoders_of(prepared))
            counts = [f"{len(folds)}-folds"] * (len(folds) > 1) + [f"{len(seeds)}-seeds"] * (len(seeds) > 1)
            folder = first.with_name("-".join([first.name, *counts]))
        for seed in seeds:
            parts = [f"fold-{fold}"] * (len(folds) > 1) + [f"seed-{seed}"] * (len(seeds) > 1)
            say(", ".join(part.replace("-", " ") for part in parts) + ":")
            alone = {"seed": seed, "num_seeds": 1, "output": folder.joinpath(*parts)}
            changed = chosen.model_copy(update=alone)  # equal to the run of this seed alone
            runs[fold].append(train_prepared(changed, prepared, say, report))
    every = [run for some in runs.values() for run in some]
    summary: dict[str, Any] = {"schema": SCHEMA, "seeds": list(seeds), "valid": _scores(every)}
    if len(folds) > 1:
        summary["folds"] = {str(fold): _scores(some) for fold, some in runs.items()}
    path = [every[0].path, *every[0].path.parents][depth]
    write_json(path / SUMMARY_FILE, summary)
    return SeriesResult(path, every, summary)


def _scores(runs: list[RunResult]) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation and values of each score on valid."""
    scores = {name: [float(run.metrics["valid"][name]) for run in runs] for name in SCORES}
    return {
        name: {
            "mean": statistics.mean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "values": values,
        }
        for name, values in scores.items()
    }
