"""Measure what stage two's exact short cuts gain: absorbed attention, the BiLSTM without packing, bf16, buckets.

    python benchmarks/benchmark_heads.py [--tiny] [--json]

The habit is that of benchmark_train_head.py, on the same random corpus. A step is forward, loss, backward, clipping and
AdamW on batches that lie in memory. Plain attention runs every map on its own rows; absorbed attention folds those of
the longer side into the shorter. Errors are relative norms against the plain way, the worst over outputs and gradients.
`best` is ours in bf16 where the machine computes in it.
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
from habit import (
    HabitDataset,
    HabitHead,
    HabitRecurrent,
    check_equal,
    collate,
    habit_epoch,
    reference_lstm,
)
from random_corpus import CLASSES, SHAPES, Corpus, corpus_lengths, make_corpus
from report import Figure, report
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from features.ragged import Ragged
from mervn.config import TrainHeadOptions
from mervn.data.split import read_batch
from mervn.model.cross_attention import MultiheadAttention
from mervn.model.head import Head, build_head, head_groups
from mervn.model.recurrent import BiLSTM
from mervn.training.optimization import make_optimizer, resolve_amp
from mervn.training.sampling import BatchSize, epoch_batches, mixed_lengths, padding_efficiency
from mervn.training.trainer import Trainer, TrainingData

CPU = torch.device("cpu")
FUSIONS = {"xattn": 1.0, "bilstm_attn": 0.5, "cnn_bilstm_attn": 0.5}
"""The share of the corpus for whole epochs of each fusion: those of a packed nn.LSTM take minutes."""
PADDING_CORPUS = 3000
"""Utterances of which padding is counted: the fewer, the less alike those of a batch."""
BEST_GOALS = {"xattn": 4.0}


def options_of(fusion: str, amp: str = "off") -> TrainHeadOptions:
    """Return the options of a head and its training."""
    return TrainHeadOptions.model_validate(
        {"fusion": fusion, "pooling": "mean", "sampling": "bucket", "batch_size": 32, "loss": "ce", "dropout": 0.0,
         "epochs": 50, "amp": amp}
    )  # fmt: skip


def make_head(fusion: str) -> Head:
    """Build a head with the same weights every time."""
    torch.manual_seed(0)
    return build_head(options_of(fusion), SHAPES, CLASSES)


def make_habit(fusion: str) -> nn.Module:
    """Build the same head as the habit would."""
    head = make_head(fusion)
    return HabitHead(head) if fusion == "xattn" else HabitRecurrent(head)


def way(name: str) -> Any:
    """Make attention take one way, `none` for the plain one, or "" for its own choice."""
    return mock.patch.object(MultiheadAttention, "way", return_value=name) if name else nullcontext()


def step_seconds(head: Head, batches: Sequence[dict[str, Ragged]], targets: Sequence[Tensor], amp: str) -> float:
    """Return the seconds of a step on every batch."""
    optimizer = make_optimizer(head_groups(head, options_of("xattn")), options_of("xattn"))
    started = time.perf_counter()
    for streams, target in zip(batches, targets, strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            logits = head(streams)
        nn.functional.cross_entropy(logits, target).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def padded_seconds(habit: HabitHead, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """Return the seconds of a step on every padded batch, fp32."""
    optimizer = make_optimizer(head_groups(habit, options_of("xattn")), options_of("xattn"))
    started = time.perf_counter()
    for *inputs, target in batches:
        nn.functional.cross_entropy(habit(*inputs), target).backward()
        nn.utils.clip_grad_norm_(habit.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def median_ratio(first: Callable[[], float], second: Callable[[], float], rounds: int) -> float:
    """Return the median of first over second, run in alternation after a round that warms up."""
    first(), second()
    return statistics.median(first() / second() for _ in range(rounds))


def measure_attention(corpus: Corpus, trainer: Trainer, rounds: int, limit: int) -> list[Figure]:
    """Compare absorbed with plain attention in xattn."""
    indices = spread_batches(corpus, trainer, limit)
    batches = [read_batch(corpus.split, batch, CPU).inputs() for batch in indices]
    targets = [read_batch(corpus.split, batch, CPU).targets for batch in indices]
    dataset = HabitDataset(corpus)
    padded = [collate([dataset[i] for i in batch]) for batch in indices]
    head, habit = make_head("xattn"), HabitHead(make_head("xattn"))

    def plain(amp: str) -> Callable[[], float]:
        def run() -> float:
            with way("none"):
                return step_seconds(head, batches, targets, amp)

        return run

    def ours(amp: str) -> Callable[[], float]:
        return lambda: step_seconds(head, batches, targets, amp)

    fp32, bf16 = (median_ratio(ours(amp), plain(amp), rounds) for amp in ("off", "bf16"))
    best = median_ratio(ours("bf16"), lambda: padded_seconds(habit, padded), rounds)
    error = attention_error(batches[0])
    return [
        Figure("heads.absorbed.fp32", "xattn's step, absorbed over plain attention, fp32", fp32, 0.8, "lower"),
        Figure("heads.absorbed.bf16", "the same, both in bf16", bf16, 0.75, "lower"),
        Figure("heads.best_over_plain_fp32", "absorbed bf16 over padded fp32 batches", best, 0.5, "lower"),
        Figure("heads.absorbed.error", "outputs and gradients against plain attention", error, 1e-5, "lower"),
    ]


def spread_batches(corpus: Corpus, trainer: Trainer, limit: int) -> list[list[int]]:
    """Return batches of the first epoch, spread evenly over the lengths: what absorbing gains depends on them."""
    sizes = corpus.split.streams["audio"][0].sizes
    ordered = sorted(trainer.plan.batches(0), key=lambda batch: sum(sizes[i] for i in batch))
    places = np.linspace(0, len(ordered) - 1, min(limit, len(ordered))).round().astype(int)
    return [list(ordered[place]) for place in places]


def attention_error(streams: dict[str, Ragged]) -> float:
    """Return the worst relative error of xattn's outputs and gradients."""
    found = []
    for name in ("none", ""):
        head = make_head("xattn")
        with way(name):
            (fused,) = head.fusion({key: head.projections[key](stream) for key, stream in streams.items()})
        fused.values.square().mean().backward()
        gradients = {key: p.grad for key, p in head.named_parameters() if p.grad is not None}
        for key in [key for key in gradients if key.endswith("key_value.bias")]:
            gradients[key] = gradients[key].chunk(2)[1]  # a key's bias drops out of the softmax: rounding alone
        found.append({"rows": fused.values.detach(), **gradients})
    return max(relative(found[1][key], plain) for key, plain in found[0].items())


def relative(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())


def measure_bilstm(corpus: Corpus, trainer: Trainer, rounds: int, limit: int) -> list[Figure]:
    """Compare our BiLSTM with a packed one, forward and backward, on projected audio."""
    torch.manual_seed(0)
    ours = BiLSTM(256, 128, 1)
    theirs = reference_lstm(ours)
    sizes = [
        [corpus.split.streams["audio"][0].sizes[i] for i in batch] for batch in spread_batches(corpus, trainer, limit)
    ]
    inputs = [Ragged.from_lengths(torch.randn(sum(some), 256), some) for some in sizes]
    padded = [(x.pad(), torch.tensor(x.sizes)) for x in inputs]

    def packed(x: Tensor, lengths: Tensor) -> Tensor:
        rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(theirs(rows)[0], batch_first=True)[0]

    def run_ours() -> float:
        started = time.perf_counter()
        for x in inputs:
            ours.states(x.replace(x.values.detach().requires_grad_())).values.square().sum().backward()
        return time.perf_counter() - started

    def run_theirs() -> float:
        started = time.perf_counter()
        for x, lengths in padded:
            packed(x.detach().requires_grad_(), lengths).square().sum().backward()
        return time.perf_counter() - started

    gained = median_ratio(run_theirs, run_ours, rounds)
    return [
        Figure("heads.pack_padded_over_ours", "a packed nn.LSTM over our BiLSTM, fp32", gained, 4.0, "higher"),
        Figure("heads.bilstm.error", "outputs and gradients against it", bilstm_error(inputs[0]), 1e-5, "lower"),
    ]


def bilstm_error(x: Ragged) -> float:
    """Return the worst relative error of our BiLSTM's outputs and gradients."""
    torch.manual_seed(0)
    ours = BiLSTM(256, 128, 1)
    theirs = reference_lstm(ours)
    mine, other = x.values.clone().requires_grad_(), x.pad().requires_grad_()
    rows = ours.states(x.replace(mine)).values
    packed = pack_padded_sequence(other, torch.tensor(x.sizes), batch_first=True, enforce_sorted=False)
    expected = x.pack(pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]).values
    for output in (rows, expected):
        output.square().mean().backward()
    pairs = [(rows.detach(), expected.detach()), (mine.grad, x.pack(other.grad).values)]
    for suffix, lstm in (("", ours.forwards[0]), ("_reverse", ours.backwards[0])):
        pairs += [(p.grad, getattr(theirs, name + suffix).grad) for name, p in lstm.named_parameters()]
    return max(relative(found, wanted) for found, wanted in pairs)


def measure_fusion(fusion: str, corpus: Corpus, rounds: int) -> list[Figure]:
    """Compare whole epochs, reading included, of one fusion with the habit's."""
    ours = make_head(fusion)
    habit = make_habit(fusion)
    difference = check_equal(ours, habit, corpus)
    if difference > 1e-4:
        raise RuntimeError(f"both sides must compute the same head, found a difference of {difference} in {fusion}")
    labels = [str(c) for c in range(CLASSES)]
    amps = {"fp32": "off", "best": resolve_amp("auto", CPU)}
    trainers = {
        name: Trainer(make_head(fusion), TrainingData(corpus.split, corpus.split, labels), options_of(fusion, amp), CPU)
        for name, amp in amps.items()
    }
    optimizer = make_optimizer(head_groups(habit, options_of(fusion)), options_of(fusion))
    loader = DataLoader(HabitDataset(corpus), batch_size=32, shuffle=True, collate_fn=collate)
    ratios: dict[str, list[float]] = {"fp32": [], "best": [], "share": []}
    for epoch in range(rounds + 1):
        seconds = {}
        for name, trainer in trainers.items():
            started, trainer.loader_seconds = time.perf_counter(), 0.0
            trainer.train_epoch(epoch)
            seconds[name] = time.perf_counter() - started
        habitual = habit_epoch(habit, optimizer, loader)
        if epoch:  # the first round warms up
            for name, value in seconds.items():
                ratios[name].append(habitual / value)
            ratios["share"].append(trainers["fp32"].loader_seconds / seconds["fp32"])
    median = {name: statistics.median(values) for name, values in ratios.items()}
    return [
        Figure(f"loader.share.{fusion}", "store and loader over the epoch, fp32", median["share"], 0.08, "lower"),
        Figure(f"habit.{fusion}.fp32", "the habit's epoch over ours, fp32", median["fp32"], 1.8, "higher"),
        Figure(f"habit.{fusion}.best", f"the same over ours in {amps['best']}", median["best"],
               BEST_GOALS.get(fusion), "higher"),
    ]  # fmt: skip


def measure_padding() -> list[Figure]:
    """Count real over padded rows in batches of 32 of a whole corpus."""
    seconds, lengths = corpus_lengths(PADDING_CORPUS, np.random.default_rng(0))
    rows = np.array([lengths["text"], lengths["audio"]])
    mixed, equal = mixed_lengths(seconds, lengths["text"], 0.03), np.ones(PADDING_CORPUS)
    found = {}
    for sampling in ("bucket", "random"):
        epochs = [epoch_batches(sampling, mixed, equal, BatchSize(rows, 32), 0, epoch) for epoch in range(5)]
        found[sampling] = [statistics.mean(padding_efficiency(each, batches) for batches in epochs) for each in rows]
    return [
        Figure("loader.padding_efficiency", "real over padded frames, buckets", found["bucket"][1], 0.97, "higher"),
        Figure("loader.padding_efficiency.text", "the same of text tokens", found["bucket"][0], None, "higher"),
        Figure("loader.padding_efficiency.random", "audio frames, random batches", found["random"][1], None, "higher"),
    ]


def measure(count: int, rounds: int, limit: int) -> list[Figure]:
    """Measure everything on one corpus."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder), count)
        labels = [str(c) for c in range(CLASSES)]
        trainer = Trainer(
            make_head("xattn"), TrainingData(corpus.split, corpus.split, labels), options_of("xattn"), CPU
        )
        figures = measure_attention(corpus, trainer, rounds, limit)
        figures += measure_bilstm(corpus, trainer, 2 * rounds + 1, limit)  # the shortest steps need the most
    figures += measure_padding()
    for fusion, share in FUSIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            some = make_corpus(Path(folder), round(share * count))
            figures += measure_fusion(fusion, some, rounds)
    return figures


@click.command()
@click.option("--tiny", is_flag=True, help="A few utterances: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("heads", measure(64, 1, 2) if tiny else measure(512, 3, 8), as_json)


if __name__ == "__main__":
    main()
