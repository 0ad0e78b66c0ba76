"""Measure how fast stage two is beside the habit, and how much of an epoch is reading.

    python benchmarks/benchmark_train_head.py [--tiny] [--json]

The habit: one .npy file an utterance, a DataLoader without workers, random batches of 32 padded to their longest, and
nn.MultiheadAttention with key padding masks. Ours: the feature store, length buckets, packed frames. Both train the
same head (same weights to begin with, same number of parameters) on the same utterances in fp32, batches of 32, AdamW
and gradient clipping, and both compute the same logits from the same utterances (checked). Lengths are those of a
speech emotion corpus: audio of 228 frames of width 1024 on the mean, text of 21 tokens of width 768.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from habit import HabitDataset, HabitHead, check_equal, collate, habit_epoch
from random_corpus import CLASSES, SHAPES, make_corpus
from report import Figure, report
from torch.utils.data import DataLoader

from mervn.config import TrainHeadOptions
from mervn.model.head import build_head, head_groups
from mervn.training.optimization import make_optimizer
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
        habit = HabitHead(ours_copy := build_head(OPTIONS, SHAPES, CLASSES))
        ours.load_state_dict(ours_copy.state_dict())
        difference = check_equal(ours, habit, corpus)
        if difference > 1e-4:
            raise RuntimeError(f"both sides must compute the same head, found a difference of {difference}")
        labels = [str(c) for c in range(CLASSES)]
        trainer = Trainer(ours, TrainingData(corpus.split, corpus.split, labels), OPTIONS, torch.device("cpu"))
        optimizer = make_optimizer(head_groups(habit, OPTIONS), OPTIONS)
        loader = DataLoader(HabitDataset(corpus), batch_size=32, shuffle=True, collate_fn=collate)
        epochs: dict[str, list[float]] = {"ours": [], "loader": [], "habit": []}
        for epoch in range(rounds + 1):
            started, trainer.loader_seconds = time.perf_counter(), 0.0
            trainer.train_epoch(epoch)
            seconds = time.perf_counter() - started, trainer.loader_seconds, habit_epoch(habit, optimizer, loader)
            if epoch:  # the first round warms up
                for name, value in zip(epochs, seconds, strict=True):
                    epochs[name].append(value)
    median = {name: statistics.median(values) for name, values in epochs.items()}
    shares = [loader / ours for loader, ours in zip(epochs["loader"], epochs["ours"], strict=True)]
    ratios = [habit / ours for habit, ours in zip(epochs["habit"], epochs["ours"], strict=True)]
    return [
        Figure(
            "loader.share", "seconds in store and loader over the epoch's", statistics.median(shares), 0.08, "lower"
        ),
        Figure("habit.xattn.fp32", "the habit's epoch over ours, fp32", statistics.median(ratios), 1.8, "higher"),
        Figure("epoch.seconds", f"one epoch of ours, {count} utterances", median["ours"], None, "lower"),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="A few utterances: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("train_head", measure(96, 1) if tiny else measure(1024, 5), as_json)


if __name__ == "__main__":
    main()
