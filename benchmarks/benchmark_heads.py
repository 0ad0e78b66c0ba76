"""Measure the gain of the exact optimizations in training a head: absorbed attention, BiLSTM, bf16, buckets.

    python benchmarks/benchmark_heads.py [--tiny] [--json]

Uses the baseline and the random corpus of benchmark_train_head.py. A step is forward, loss,
backward, clipping and AdamW on batches in memory. Plain attention runs every projection on its own
frames; absorbed attention folds the projections of the longer side into the shorter one. Errors are
norms relative to the plain implementation, the maximum over outputs and gradients. `best` is mervn
in bf16, if the machine supports it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from baseline import (
    BaselineDataset,
    BaselineHead,
    BaselineRecurrent,
    baseline_epoch,
    collate,
    max_difference,
)
from bilstm import measure_bilstm, relative
from random_corpus import CLASSES, SHAPES, Corpus, corpus_lengths, make_corpus
from report import Figure, report
from timing import median_ratio
from torch import Tensor, nn
from torch.utils.data import DataLoader

from features.ragged import Ragged
from mervn.config import TrainHeadOptions
from mervn.data.split import read_batch
from mervn.model.cross_attention import MultiheadAttention
from mervn.model.head import Head, build_head
from mervn.model.trainable import decay_groups
from mervn.training.optimization import make_optimizer, resolve_amp
from mervn.training.sampling import BatchSize, epoch_batches, mixed_lengths, padding_efficiency
from mervn.training.setup import resolve
from mervn.training.trainer import Trainer, TrainingData

CPU = torch.device("cpu")
FUSIONS = {"xattn": 1.0, "bilstm_attn": 0.5, "cnn_bilstm_attn": 0.5}
"""Fraction of the corpus for whole epochs of each fusion: with a packed nn.LSTM they take minutes."""
PADDING_CORPUS = 3000
"""Utterances for counting padding: with fewer, the lengths in a batch are less similar."""
BEST_GOALS = {"xattn": 4.0}


def options_of(fusion: str, amp: str = "off") -> TrainHeadOptions:
    """Return the options of a head and its training."""
    return TrainHeadOptions.model_validate(
        {"fusion": fusion, "pooling": "mean", "sampling": "bucket", "batch_size": 32, "loss": "ce", "dropout": 0.0,
         "epochs": 50, "amp": amp}
    )  # fmt: skip


def make_head(fusion: str) -> Head:
    """Build a head, always with the same weights."""
    torch.manual_seed(0)
    return build_head(options_of(fusion), SHAPES, CLASSES)


def make_baseline(fusion: str) -> nn.Module:
    """Build the baseline with the same weights."""
    head = make_head(fusion)
    return BaselineHead(head) if fusion == "xattn" else BaselineRecurrent(head)


def absorb(side: str) -> Any:
    """Make attention absorb the projections of a side: `none` for plain attention, "" for its own choice."""
    return mock.patch.object(MultiheadAttention, "absorbed_side", return_value=side) if side else nullcontext()


def step_seconds(head: Head, batches: Sequence[dict[str, Ragged]], targets: Sequence[Tensor], amp: str) -> float:
    """Return the seconds of one step on every batch."""
    optimizer = make_optimizer(decay_groups(head, options_of("xattn").weight_decay), options_of("xattn"))
    started = time.perf_counter()
    for streams, target in zip(batches, targets, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            logits = head(streams)
        nn.functional.cross_entropy(logits, target).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def padded_seconds(baseline: BaselineHead, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """Return the seconds of one step of the baseline on every padded batch, fp32."""
    optimizer = make_optimizer(decay_groups(baseline, options_of("xattn").weight_decay), options_of("xattn"))
    started = time.perf_counter()
    for *inputs, target in batches:
        nn.functional.cross_entropy(baseline(*inputs), target).backward()
        nn.utils.clip_grad_norm_(baseline.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def measure_attention(corpus: Corpus, trainer: Trainer, rounds: int, limit: int) -> list[Figure]:
    """Compare absorbed with plain attention in xattn."""
    indices = spread_batches(corpus, trainer, limit)
    batches = [read_batch(corpus.split, batch, CPU).inputs() for batch in indices]
    targets = [read_batch(corpus.split, batch, CPU).targets for batch in indices]
    padded = [padded_batch(corpus, batch) for batch in indices]
    head, baseline = make_head("xattn"), BaselineHead(make_head("xattn"))

    def plain(amp: str) -> Callable[[], float]:
        def run() -> float:
            with absorb("none"):
                return step_seconds(head, batches, targets, amp)

        return run

    def ours(amp: str) -> Callable[[], float]:
        return lambda: step_seconds(head, batches, targets, amp)

    fp32, bf16 = median_ratio(ours("off"), plain("off"), rounds), median_ratio(ours("bf16"), plain("bf16"), rounds)
    best = median_ratio(ours("bf16"), lambda: padded_seconds(baseline, padded), rounds)
    error = attention_error(batches[0])
    return [
        Figure("heads.absorbed.fp32", "step of xattn, absorbed / plain attention, fp32", fp32, 0.8, "lower"),
        Figure("heads.absorbed.bf16", "the same, both in bf16", bf16, 0.75, "lower"),
        Figure("heads.best_over_plain_fp32", "absorbed, bf16 / padded baseline, fp32", best, 0.5, "lower"),
        Figure("heads.absorbed.error", "relative error against plain attention", error, 1e-5, "lower"),
    ]


def padded_batch(corpus: Corpus, indices: Sequence[int]) -> tuple[Tensor, ...]:
    """Return a batch as the baseline reads it."""
    dataset = BaselineDataset(corpus)
    return collate([dataset[i] for i in indices])


def spread_batches(corpus: Corpus, trainer: Trainer, limit: int) -> list[list[int]]:
    """Return batches of the first epoch, spread evenly over the lengths, because the gain depends on the length."""
    sizes = np.array(corpus.split.streams["audio"][0].sizes)
    ordered = sorted(trainer.plan.batches(0), key=lambda batch: sizes[list(batch)].sum())
    positions = np.linspace(0, len(ordered) - 1, min(limit, len(ordered))).round().astype(int)
    return [list(ordered[position]) for position in positions]


def attention_error(streams: dict[str, Ragged]) -> float:
    """Return the maximum relative error of the outputs and gradients of xattn."""
    found = []
    for side in ("none", ""):
        head = make_head("xattn")
        with absorb(side):
            (fused,) = head.fusion({key: head.projections[key](stream) for key, stream in streams.items()})
        fused.values.square().mean().backward()
        tensors = {"output": fused.values.detach()}
        for key, parameter in head.named_parameters():
            if parameter.grad is None:
                continue
            # The softmax cancels the key bias, so its gradient is only rounding.
            value_only = key.endswith("key_value.bias")
            tensors[key] = parameter.grad.chunk(2)[1] if value_only else parameter.grad
        found.append(tensors)
    return max(relative(found[1][key], plain) for key, plain in found[0].items())


def measure_fusion(fusion: str, corpus: Corpus, rounds: int) -> list[Figure]:
    """Compare whole epochs of one fusion, including reading, with the baseline."""
    ours = make_head(fusion)
    baseline = make_baseline(fusion)
    difference = max_difference(ours, baseline, corpus)
    if difference > 1e-4:
        raise RuntimeError(f"both heads must compute the same logits, found a difference of {difference} in {fusion}")
    data = TrainingData(corpus.split, corpus.split, list(map(str, range(CLASSES))))
    amps = {"fp32": "off", "best": resolve_amp("auto", CPU)}
    trainers = {}
    for name, amp in amps.items():
        trainers[name] = Trainer(make_head(fusion), data, resolve(options_of(fusion, amp), CPU))
    optimizer = make_optimizer(decay_groups(baseline, options_of(fusion).weight_decay), options_of(fusion))
    loader = DataLoader(BaselineDataset(corpus), batch_size=32, shuffle=True, collate_fn=collate)
    ratios: dict[str, list[float]] = {"fp32": [], "best": [], "reading": []}
    for epoch in range(rounds + 1):
        seconds = {}
        for name, trainer in trainers.items():
            started, trainer.loader_seconds = time.perf_counter(), 0.0
            trainer.train_epoch(epoch)
            seconds[name] = time.perf_counter() - started
        baseline_seconds = baseline_epoch(baseline, optimizer, loader)
        if epoch:  # the first round is a warm-up
            for name, value in seconds.items():
                ratios[name].append(baseline_seconds / value)
            ratios["reading"].append(trainers["fp32"].loader_seconds / seconds["fp32"])
    median = {name: statistics.median(values) for name, values in ratios.items()}
    return [
        Figure(f"loader.share.{fusion}", "time of reading / time of the epoch, fp32", median["reading"], 0.08, "lower"),
        Figure(f"habit.{fusion}.fp32", "baseline epoch / mervn epoch, fp32", median["fp32"], 1.8, "higher"),
        Figure(f"habit.{fusion}.best", f"the same, mervn in {amps['best']}", median["best"],
               BEST_GOALS.get(fusion), "higher"),
    ]  # fmt: skip


def measure_padding(count: int) -> list[Figure]:
    """Measure the fraction of real frames and tokens in batches of 32 of a corpus of `count` utterances."""
    seconds, lengths = corpus_lengths(count, np.random.default_rng(0))
    sizes = np.array([lengths["text"], lengths["audio"]])
    mixed, equal = mixed_lengths(seconds, lengths["text"], 0.03), np.ones(count)

    def efficiency(sampling: str, modality: str) -> float:
        found = []
        for epoch in range(5):
            batches = epoch_batches(sampling, mixed, equal, BatchSize(sizes, 32), 0, epoch)
            found.append(padding_efficiency(lengths[modality], batches))
        return statistics.mean(found)

    audio, text, random = efficiency("bucket", "audio"), efficiency("bucket", "text"), efficiency("random", "audio")
    return [
        Figure("loader.padding_efficiency", "real / padded audio frames, buckets", audio, 0.97, "higher"),
        Figure("loader.padding_efficiency.text", "real / padded text tokens, buckets", text, None, "higher"),
        Figure("loader.padding_efficiency.random", "audio frames, random batches", random, None, "higher"),
    ]


def measure(count: int, rounds: int, limit: int, padding_corpus: int) -> list[Figure]:
    """Measure everything on random corpora."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), count)
        data = TrainingData(corpus.split, corpus.split, list(map(str, range(CLASSES))))
        trainer = Trainer(make_head("xattn"), data, resolve(options_of("xattn"), CPU))
        figures = measure_attention(corpus, trainer, rounds, limit)
        sizes = np.array(corpus.split.streams["audio"][0].sizes)
        lengths = [sizes[batch].tolist() for batch in spread_batches(corpus, trainer, limit)]
        figures += measure_bilstm(lengths, 2 * rounds + 1)  # short steps need more rounds
    figures += measure_padding(padding_corpus)
    for fusion, fraction in FUSIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures += measure_fusion(fusion, make_corpus(Path(folder), round(fraction * count)), rounds)
    return figures


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("heads", measure(2, 1, 1, 100) if tiny else measure(512, 3, 8, PADDING_CORPUS), as_json)


if __name__ == "__main__":
    main()
