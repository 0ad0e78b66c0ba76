"""Series on disk: the runs of `train-head --num-seeds` or `--fold all`, by seed and fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from features.atomic_files import read_object
from features.errors import InputError, UsageError
from mervn.run_folder import CONFIG_FILE, SUMMARY_FILE, RunConfig, read_config

Key = tuple[int, int | None]
"""Seed and fold of a run; the fold is None without folds."""


@dataclass(frozen=True)
class Series:
    """One run, or runs that differ only in seed and fold."""

    path: Path
    runs: Mapping[Key, Path]
    """The folder of each run, by seed and fold."""
    configs: Mapping[Key, RunConfig]

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({seed for seed, _ in self.runs})

    @property
    def folds(self) -> list[int | None]:
        """The folds, in order; one None without folds."""
        return sorted({fold for _, fold in self.runs}, key=lambda fold: fold or 0)

    @property
    def first(self) -> RunConfig:
        """The configuration of the first run."""
        return self.configs[self.seeds[0], self.folds[0]]


def is_series(path: Path) -> bool:
    """Tell whether a folder holds the runs of a series, and is not a run itself."""
    return (path / SUMMARY_FILE).is_file() and not (path / CONFIG_FILE).is_file()


def read_series(path: Path) -> Series:
    """Read the configurations of a run, or of all runs that the summary.json of a series names.

    Raises UsageError if the folder is neither, InputError if the series lacks a run, or if its runs
    have different labels.
    """
    if not is_series(path):
        if not (path / CONFIG_FILE).is_file():
            raise UsageError(
                f"{path} must be the folder of a run or of a series of seeds or folds, "
                f"but neither {CONFIG_FILE} nor {SUMMARY_FILE} exists in it; "
                "if its training was interrupted, run the same command again"
            )
        config = read_config(path)
        key = _key(path, config)
        return Series(path, {key: path}, {key: config})
    runs: dict[Key, Path] = {}
    configs: dict[Key, RunConfig] = {}
    for expected, run in _members(path).items():
        if not (run / CONFIG_FILE).is_file():
            raise InputError(f"{path / SUMMARY_FILE} names the run {run}, but it does not exist; train it again")
        config = read_config(run)
        seed, fold = key = _key(run, config)
        if expected not in (key, (seed, None)):
            found = f"seed {seed}" if fold is None else f"fold {fold}, seed {seed}"
            raise InputError(f"{run} must be the run that its path names, found {found}")
        runs[key], configs[key] = run, config
    labels = {tuple(config.labels) for config in configs.values()}
    if len(labels) > 1:
        raise InputError(f"{path}: all runs must have the same labels, found {' and '.join(map(str, sorted(labels)))}")
    return Series(path, runs, configs)


def _key(run: Path, config: RunConfig) -> Key:
    """Return the seed and the fold of a run; InputError if config.json holds no seed."""
    seed, fold = config.options.get("seed"), config.options.get("fold")
    if not isinstance(seed, int):
        raise InputError(f"{run / CONFIG_FILE}: options.seed must be a number, found {seed!r}")
    return seed, None if fold is None else int(fold)


def _members(path: Path) -> dict[Key, Path]:
    """Return the folders of the runs that a summary.json names, by seed and fold.

    Folders are named as `mervn.training.seeds_and_folds` names them. The fold is None if all runs
    are of the same fold, or of none.
    """
    document = read_object(path / SUMMARY_FILE, "the summary of a series")
    seeds, folds = document.get("seeds"), document.get("folds", {})
    if not _are_seeds(seeds) or not isinstance(folds, dict) or not all(fold.isdigit() for fold in folds):
        raise InputError(f"{path / SUMMARY_FILE} must hold the seeds and folds of a series, found {seeds} and {folds}")
    members: dict[Key, Path] = {}
    numbers: list[int | None] = [None]
    if folds:
        numbers = [*sorted(map(int, folds))]
    for fold in numbers:
        for seed in seeds:
            parts = [] if fold is None else [f"fold-{fold}"]
            parts += [f"seed-{seed}"] if len(seeds) > 1 else []
            members[seed, fold] = path.joinpath(*parts)
    return members


def _are_seeds(seeds: Any) -> TypeGuard[list[int]]:
    """Tell whether a value of summary.json is a list of seeds."""
    return isinstance(seeds, list) and bool(seeds) and all(isinstance(seed, int) for seed in seeds)
