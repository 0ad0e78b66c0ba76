"""Series of runs that differ only in seed or fold: `train-head --num-seeds`, `--fold all`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NotRequired, TypedDict

from features.atomic_files import read_object
from features.config import SPLITS
from features.manifests.folds import find_folds
from features.progress import SILENT, Reporter
from mervn.config import TrainHeadOptions
from mervn.run_folder import SCHEMA, SUMMARY_FILE, default_folder, write_json
from mervn.training.results import RunResult
from mervn.training.setup import Resolved, StoredData, configuration, open_stored_data, resolve_head_options
from mervn.training.train_head import train_on

SCORES = ("accuracy", "macro_f1")


class Spread(TypedDict):
    """One score over several runs."""

    mean: float
    std: float
    """Sample standard deviation (n - 1); 0 for one run."""
    values: list[float]


class Summary(TypedDict):
    """The content of summary.json."""

    schema: int
    seeds: list[int]
    valid: dict[str, Spread]
    """By score, over all runs."""
    folds: NotRequired[dict[str, dict[str, Spread]]]
    """By fold and score, over its seeds; only for several folds."""


@dataclass(frozen=True)
class SeriesResult:
    """Runs that differ only in their seed or fold, with a summary of their scores."""

    path: Path
    runs: list[RunResult]
    summary: Summary


def train_series(options: TrainHeadOptions, data: Path, reporter: Reporter = SILENT) -> SeriesResult:
    """Train `num_seeds` heads on the fold, or on every fold.

    Each head is a run of its own, and all runs lie below one folder. The features of a fold are
    opened once for all seeds. Writes summary.json: the scores of every run on valid, with mean and
    sample standard deviation (n - 1) over all runs, and per fold over its seeds.
    """
    folds = [options.fold]
    if options.fold == "all":
        folds = list(map(str, range(1, len(find_folds(data, options.fold_file)) + 1)))
    seeds = range(options.seed, options.seed + options.num_seeds)
    series = _Series(len(folds), len(seeds), options.output)
    resolved = resolve_head_options(options)
    runs: dict[str | None, list[RunResult]] = {fold: [] for fold in folds}
    for fold in folds:
        chosen = resolved.with_options(fold=fold)
        opened = open_stored_data(chosen, data, reporter)
        for seed in seeds:
            parts = series.parts(fold, seed)
            reporter.say(", ".join(part.replace("-", " ") for part in parts) + ":")
            output = series.folder(chosen, opened).joinpath(*parts)
            # num_seeds=1: the configuration then equals that of a single run with this seed
            single = chosen.with_options(seed=seed, num_seeds=1, output=output)
            runs[fold].append(train_on(opened, single, reporter))
    all_runs = list(chain.from_iterable(runs.values()))
    summary: Summary = {"schema": SCHEMA, "seeds": list(seeds), "valid": _scores(all_runs)}
    if len(folds) > 1:
        summary["folds"] = {str(fold): _scores(fold_runs) for fold, fold_runs in runs.items()}
    # the runs lie zero, one or two levels below the folder of the series
    path = [all_runs[0].path, *all_runs[0].path.parents][len(series.parts(folds[0], seeds[0]))]
    if series.parts(folds[0], options.seed):
        _drop_old_scores(path, list(seeds), len(folds), options.force)
    write_json(path / SUMMARY_FILE, summary)
    return SeriesResult(path, all_runs, summary)


def _drop_old_scores(folder: Path, seeds: list[int], num_folds: int, force: bool) -> None:
    """Remove the scores of a series that was trained again, or with other seeds or folds, from its folder."""
    if not (folder / SUMMARY_FILE).is_file():
        return
    summary = read_object(folder / SUMMARY_FILE, "a summary")
    if force or summary.get("seeds") != seeds or len(summary.get("folds", [None])) != num_folds:
        for split in SPLITS:
            for path in folder.glob(f"metrics-{split}*.json"):
                path.unlink()


class _Series:
    """Folder names of a series: `fold-K` for several folds, then `seed-S` for several seeds."""

    def __init__(self, num_folds: int, num_seeds: int, output: Path | None) -> None:
        self.num_folds, self.num_seeds, self._folder = num_folds, num_seeds, output

    def parts(self, fold: str | None, seed: int) -> list[str]:
        """Return the folder names that lead from the series to a run."""
        parts = [f"fold-{fold}"] if self.num_folds > 1 else []
        return [*parts, f"seed-{seed}"] if self.num_seeds > 1 else parts

    def folder(self, resolved: Resolved[TrainHeadOptions], data: StoredData) -> Path:
        """Return the folder of the series: --output, or a name derived from its first run."""
        if self._folder is None:
            first = default_folder(configuration(resolved, data), data.encoders)
            counts = [f"{self.num_folds}-folds"] if self.num_folds > 1 else []
            counts += [f"{self.num_seeds}-seeds"] if self.num_seeds > 1 else []
            self._folder = first.with_name("-".join([first.name, *counts]))
        return self._folder


def _scores(runs: list[RunResult]) -> dict[str, Spread]:
    """Return the mean, standard deviation and values of each score on valid."""
    scores: dict[str, Spread] = {}
    for name in SCORES:
        values = [float(run.metrics["valid"][name]) for run in runs]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        scores[name] = {"mean": statistics.mean(values), "std": std, "values": values}
    return scores
