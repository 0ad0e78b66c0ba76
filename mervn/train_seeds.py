"""`train-head --num-seeds`: runs that differ in their seed alone, over features opened once."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mervn.config import TrainHeadOptions
from mervn.runs import SCHEMA, default_folder, write_json
from mervn.train_head import (
    RunResult,
    Say,
    configuration,
    encoders_of,
    open_training,
    resolved,
    train_prepared,
)
from mervn.training import Report

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class SeedsResult:
    """Runs that differ in their seed alone."""

    path: Path
    runs: list[RunResult]
    summary: Mapping[str, Any]


def train_seeds(options: TrainHeadOptions, data: Path, say: Say, report: Report) -> SeedsResult:
    """Train `num_seeds` heads over features opened once, each a run of its own below one folder.

    Writes summary.json there: mean and standard deviation (of the sample, n - 1) of the scores on valid.
    """
    prepared = open_training(options, data, say)
    first = configuration(resolved(options), prepared)
    folder = options.output or default_folder(first, encoders_of(prepared)).with_name(
        f"{default_folder(first, encoders_of(prepared)).name}-{options.num_seeds}-seeds"
    )
    runs = []
    for seed in range(options.seed, options.seed + options.num_seeds):
        say(f"seed {seed}:")
        changed = options.model_copy(update={"seed": seed, "output": folder / f"seed-{seed}"})
        runs.append(train_prepared(changed, prepared, say, report))
    scores = {name: [float(run.metrics["valid"][name]) for run in runs] for name in ("accuracy", "macro_f1")}
    summary = {
        "schema": SCHEMA,
        "seeds": [options.seed + number for number in range(options.num_seeds)],
        "valid": {
            name: {
                "mean": statistics.mean(values),
                "std": statistics.stdev(values) if len(values) > 1 else 0.0,
                "values": values,
            }
            for name, values in scores.items()
        },
    }
    write_json(folder / SUMMARY_FILE, summary)
    return SeedsResult(folder, runs, summary)
