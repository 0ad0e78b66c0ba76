"""Measure the speed of training a head against a padded baseline, and the fraction of an epoch spent on reading.

    python benchmarks/benchmark_train_head.py [--tiny] [--json]

The baseline reads one .npy file per utterance with a DataLoader without workers, pads random
batches of 32, and uses nn.MultiheadAttention with key padding masks. `mervn` uses the feature
store, length buckets and packed frames. Both train the same head from the same initial weights on
the same utterances, in fp32, with batches of 32, AdamW and gradient clipping; the script checks
that both compute the same logits. Lengths are those of a speech emotion corpus: on average 228
audio frames of width 1024 and 21 text tokens of width 768.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from baseline import BaselineDataset, BaselineHead, baseline_epoch, collate, max_difference
from random_corpus import CLASSES, SHAPES, make_corpus
from report import Figure, report
from torch.utils.data import DataLoader

from mervn.config import TrainHeadOptions
from mervn.model.head import build_head
from mervn.model.trainable import decay_groups
from mervn.training.optimization import make_optimizer
from mervn.training.setup import resolve
from mervn.training.trainer import Trainer, TrainingData

OPTIONS = TrainHeadOptions(
    fusion="xattn", pooling="mean", sampling="bucket", batch_size=32, loss="ce", dropout=0.0, epochs=50, amp="off"
)


def measure(count: int, rounds: int) -> list[Figure]:
    """Alternate epochs of both and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), count)
        torch.manual_seed(0)
        ours = build_head(OPTIONS, SHAPES, CLASSES)
        original = build_head(OPTIONS, SHAPES, CLASSES)
        baseline = BaselineHead(original)
        ours.load_state_dict(original.state_dict())
        difference = max_difference(ours, baseline, corpus)
        if difference > 1e-4:
            raise RuntimeError(f"both heads must compute the same logits, found a difference of {difference}")
        data = TrainingData(corpus.split, corpus.split, list(map(str, range(CLASSES))))
        trainer = Trainer(ours, data, resolve(OPTIONS, torch.device("cpu")))
        optimizer = make_optimizer(decay_groups(baseline, OPTIONS.weight_decay), OPTIONS)
        loader = DataLoader(BaselineDataset(corpus), batch_size=32, shuffle=True, collate_fn=collate)
        epochs: dict[str, list[float]] = {"ours": [], "loader": [], "baseline": []}
        for epoch in range(rounds + 1):
            started, trainer.loader_seconds = time.perf_counter(), 0.0
            trainer.train_epoch(epoch)
            seconds = time.perf_counter() - started
            baseline_seconds = baseline_epoch(baseline, optimizer, loader)
            if epoch:  # the first round is a warm-up
                epochs["ours"].append(seconds)
                epochs["loader"].append(trainer.loader_seconds)
                epochs["baseline"].append(baseline_seconds)
    reading = median_ratio(epochs["loader"], epochs["ours"])
    speedup = median_ratio(epochs["baseline"], epochs["ours"])
    seconds = statistics.median(epochs["ours"])
    return [
        Figure("loader.share", "time in store and loader / time of the epoch", reading, 0.08, "lower"),
        Figure("habit.xattn.fp32", "baseline epoch / mervn epoch, fp32", speedup, 1.8, "higher"),
        Figure("epoch.seconds", f"seconds of one mervn epoch of {count} utterances", seconds, None, "lower"),
    ]


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of two series."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("train_head", measure(4, 1) if tiny else measure(1024, 5), as_json)


if __name__ == "__main__":
    main()
