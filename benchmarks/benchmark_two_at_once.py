"""Measure how much two trainings on one machine slow each other down.

    python benchmarks/benchmark_two_at_once.py [--tiny] [--json]

Idle OpenMP threads spin and take cores from other processes. `mervn` limits how long they spin.
Each training is a separate process on random features (fusion bilstm_attn, fp32, batches of 32).
Measured are one training and two at once, with and without the limit, and one training with one
thread. The time counts whole epochs after a first one, as a median over several alternations. Two
trainings without the limit run once, and are stopped when they have taken `TIME_LIMIT` times as
long as one after the other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from features.cpu_threads import ENVIRONMENT_VARIABLES, SPIN_COUNT

if TYPE_CHECKING:
    from report import Figure

TIME_LIMIT = 5
LIMITED = {"GOMP_SPINCOUNT": SPIN_COUNT}
ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "limited": LIMITED,
    "unlimited": {},
    "one thread": {**LIMITED, "OMP_NUM_THREADS": "1"},
}


def train(count: int, epochs: int, start: Path) -> None:
    """Prepare a training, wait until the file `start` exists, train, and print the seconds."""
    import torch
    from random_corpus import CLASSES, SHAPES, make_corpus

    from mervn.config import TrainHeadOptions
    from mervn.model.head import build_head
    from mervn.training.setup import resolve
    from mervn.training.trainer import Trainer, TrainingData

    options = TrainHeadOptions(fusion="bilstm_attn", sampling="bucket", amp="off", dropout=0.0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), count)
        torch.manual_seed(0)
        head = build_head(options, SHAPES, CLASSES)
        data = TrainingData(corpus.split, corpus.split, list(map(str, range(CLASSES))))
        trainer = Trainer(head, data, resolve(options, torch.device("cpu")))
        trainer.train_epoch(0)
        print("ready", flush=True)
        while not start.exists():
            time.sleep(0.01)
        started = time.perf_counter()
        for epoch in range(1, epochs + 1):
            trainer.train_epoch(epoch)
        print(time.perf_counter() - started, flush=True)


def start_training(arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a training in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True)


def seconds_together(processes: int, name: str, count: int, epochs: int, limit: float | None = None) -> float:
    """Start several trainings at once and return the seconds until the last one ends, at most `limit`."""
    environment = dict(os.environ)
    for variable in (*ENVIRONMENT_VARIABLES, "OMP_NUM_THREADS"):
        environment.pop(variable, None)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        arguments = ["--train", str(start), "--count", str(count), "--epochs", str(epochs)]
        children: list[subprocess.Popen[str]] = []
        try:
            for _ in range(processes):  # prepared one after the other, because two at once without the limit are slow
                child = start_training(arguments, {**environment, **ENVIRONMENTS[name]})
                children.append(child)
                if child.stdout is None or child.stdout.readline() != "ready\n":
                    raise RuntimeError("a training failed during preparation")
            start.touch()
            started = time.perf_counter()
            return max(float(child.communicate(timeout=limit)[0]) for child in children)
        except subprocess.TimeoutExpired:
            return time.perf_counter() - started
        finally:
            for child in children:
                child.kill()


def measure(count: int, epochs: int, rounds: int) -> list[Figure]:
    """Alternate all settings and return the figures."""
    from report import Figure

    seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for processes, name in ((1, "limited"), (1, "unlimited"), (1, "one thread"), (2, "limited")):
            seconds[processes, name].append(seconds_together(processes, name, count, epochs))
    sequential = 2 * statistics.median(seconds[1, "unlimited"])
    two_unlimited = seconds_together(2, "unlimited", count, epochs, TIME_LIMIT * sequential) / sequential

    def ratio(above: tuple[int, str], below: tuple[int, str]) -> float:
        return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    alone = (1, "limited")
    two, cores = ratio((2, "limited"), alone) / 2, ratio((1, "one thread"), alone)
    median = statistics.median(seconds[alone])
    unlimited = f"two at once / one after the other, no limit, stopped at {TIME_LIMIT}"
    return [
        Figure("threads.alone", "one training with / without the limit", ratio(alone, (1, "unlimited")), 1.05, "lower"),
        Figure("threads.two_at_once", "two at once / one after the other, with the limit", two, 1.25, "lower"),
        Figure("threads.two_unbounded", unlimited, two_unlimited, None, "lower"),
        Figure("threads.second_core", "one thread / one per core, seconds", cores, None, "higher"),
        Figure("threads.seconds", f"one training, {epochs} epochs of {count} utterances", median, None, "lower"),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
@click.option("--train", "start", type=Path, hidden=True)
@click.option("--count", type=int, default=96, hidden=True)
@click.option("--epochs", type=int, default=2, hidden=True)
@click.option("--rounds", type=int, default=5, hidden=True)
def main(tiny: bool, as_json: bool, start: Path | None, count: int, epochs: int, rounds: int) -> None:
    """Measure and print."""
    if start is not None:
        train(count, epochs, start)
        return
    from report import report

    report("two_at_once", measure(2, 1, 1) if tiny else measure(count, epochs, rounds), as_json)


if __name__ == "__main__":
    main()
