"""Measure what two trainings at once on one machine cost each other.

    python benchmarks/benchmark_two_at_once.py [--tiny] [--json]

Idle threads of OpenMP spin and take cores from the threads of another process. `mervn` bounds that. Each training is a
process of its own on random features (fusion bilstm_attn, fp32, batches of 32): alone, and two started together,
with the bound and without it, and with one thread. The seconds are those of whole epochs after a first one, of a
process that is ready. The medians of several alternations are compared. Two without the bound are measured once, and
stopped where they have taken STOPPED times as long as one after the other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from features.cpu_threads import ENVIRONMENT_VARIABLES, SPIN_COUNT

STOPPED = 5
BOUNDED = {"GOMP_SPINCOUNT": SPIN_COUNT}
WAYS: dict[str, Mapping[str, str]] = {
    "bounded": BOUNDED,
    "unbounded": {},
    "one thread": {**BOUNDED, "OMP_NUM_THREADS": "1"},
}


def train(count: int, epochs: int, start: Path) -> None:
    """Train in this process once `start` exists; print the seconds."""
    import torch
    from random_corpus import CLASSES, SHAPES, make_corpus

    from mervn.config import TrainHeadOptions
    from mervn.model.head import build_head
    from mervn.training.trainer import Trainer, TrainingData

    options = TrainHeadOptions(fusion="bilstm_attn", sampling="bucket", amp="off", dropout=0.0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), count)
        torch.manual_seed(0)
        head = build_head(options, SHAPES, CLASSES)
        labels = [str(c) for c in range(CLASSES)]
        trainer = Trainer(head, TrainingData(corpus.split, corpus.split, labels), options, torch.device("cpu"))
        trainer.train_epoch(0)
        print("ready", flush=True)
        while not start.exists():
            time.sleep(0.01)
        started = time.perf_counter()
        for epoch in range(1, epochs + 1):
            trainer.train_epoch(epoch)
        print(time.perf_counter() - started, flush=True)


def together(processes: int, way: str, count: int, epochs: int, limit: float | None = None) -> float:
    """Return the seconds until the last of some trainings, started at once, is done; at most `limit`."""
    environment = {
        name: value for name, value in os.environ.items() if name not in (*ENVIRONMENT_VARIABLES, "OMP_NUM_THREADS")
    }
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        command = [sys.executable, __file__, "--train", str(start), "--count", str(count), "--epochs", str(epochs)]
        children: list[subprocess.Popen[str]] = []
        try:
            for _ in range(processes):  # one after the other, so that they are ready in bounded time
                child = subprocess.Popen(command, env={**environment, **WAYS[way]}, stdout=subprocess.PIPE, text=True)
                children.append(child)
                if child.stdout is None or child.stdout.readline() != "ready\n":
                    raise RuntimeError("a training ended before it began")
            start.touch()
            started = time.perf_counter()
            return max(float(child.communicate(timeout=limit)[0]) for child in children)
        except subprocess.TimeoutExpired:
            return time.perf_counter() - started
        finally:
            for child in children:
                child.kill()


@click.command()
@click.option("--tiny", is_flag=True, help="A few utterances: does it run?")
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
    count, epochs, rounds = (32, 1, 1) if tiny else (count, epochs, rounds)
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for processes, way in ((1, "bounded"), (1, "unbounded"), (1, "one thread"), (2, "bounded")):
            seconds.setdefault((processes, way), []).append(together(processes, way, count, epochs))
    one_by_one = 2 * statistics.median(seconds[1, "unbounded"])
    two_unbounded = together(2, "unbounded", count, epochs, STOPPED * one_by_one) / one_by_one

    from report import Figure, report

    def ratio(above: tuple[int, str], below: tuple[int, str]) -> float:
        return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    alone, unbounded = (1, "bounded"), (1, "unbounded")
    report(
        "two_at_once",
        [
            Figure(
                "threads.alone",
                "one training with bounded spinning over one without",
                ratio(alone, unbounded),
                1.05,
                "lower",
            ),
            Figure(
                "threads.two_at_once",
                "two at once over one after the other, bounded",
                ratio((2, "bounded"), alone) / 2,
                1.25,
                "lower",
            ),
            Figure(
                "threads.two_unbounded",
                f"the same without the bound, stopped at {STOPPED}",
                two_unbounded,
                None,
                "lower",
            ),
            Figure(
                "threads.second_core", "one thread over one per core", ratio((1, "one thread"), alone), None, "higher"
            ),
            Figure(
                "threads.seconds",
                f"one training, {epochs} epochs of {count} utterances",
                statistics.median(seconds[alone]),
                None,
                "lower",
            ),
        ],
        as_json,
    )


if __name__ == "__main__":
    main()
