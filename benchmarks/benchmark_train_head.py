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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from report import Figure, report
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from features.manifest import Utterance
from features.store.identity import create_store
from features.store.part import Row
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter
from mervn.config import TrainHeadOptions
from mervn.dataset import Split
from mervn.fusion.cross_attention import MultiheadAttention
from mervn.model import Head, build_head
from mervn.optimization import head_groups, make_optimizer
from mervn.sequences import Sequences
from mervn.streams import StreamShape
from mervn.training import Trainer

WIDTHS = {"text": 768, "audio": 1024}
SHAPES = {name: StreamShape(width) for name, width in WIDTHS.items()}
CLASSES = 4
OPTIONS = TrainHeadOptions(
    fusion="xattn", pooling="mean", sampling="bucket", batch_size=32, loss="ce", dropout=0.0, epochs=50, amp="off"
)


@dataclass(frozen=True)
class Corpus:
    """Random features of realistic lengths, in a store and as one file an utterance."""

    split: Split
    files: list[tuple[Path, Path]]
    targets: list[int]


def corpus_lengths(count: int, generator: np.random.Generator) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return the seconds (N,) and the rows (N,) of each modality in a speech emotion corpus."""
    seconds = np.clip(generator.lognormal(np.log(4.2), 0.45, count), 1.0, 15.0)
    tokens = np.clip(seconds * 4.2 * generator.uniform(0.7, 1.3, count) + 2, 5, 60).astype(int)
    return seconds, {"audio": np.clip(seconds * 50, 50, 750).astype(int), "text": tokens}


def make_corpus(folder: Path, count: int) -> Corpus:
    """Write the same fp16 features both ways."""
    generator = np.random.default_rng(0)
    seconds, lengths = corpus_lengths(count, generator)
    targets = generator.integers(0, CLASSES, count)
    utterances = [
        Utterance(
            f"u{i}", "s", "-", Path("-"), 0.0, None, "mix", "", str(targets[i]), "train", "train.jsonl", i + 1, {}
        )
        for i in range(count)
    ]
    streams, files = {}, []
    for modality, width in WIDTHS.items():
        identity = {"modality": modality, "encoder": "random", "layer": 0, "store_dtype": "fp16", "dim": width}
        info = create_store(folder, identity, {}, "benchmark")
        paths = []
        with StoreWriter(info) as writer:
            for i, utterance in enumerate(utterances):
                values = generator.standard_normal((lengths[modality][i], width), np.float32).astype(np.float16)
                writer.add([Row(utterance.utterance_id, values, 0, "", "{}")])
                paths.append(folder / f"{modality}-{i}.npy")
                np.save(paths[-1], values)
        store = FeatureStore(info.path)
        streams[modality] = [Sequences(store, [utterance.utterance_id for utterance in utterances])]
        files.append(paths)
    split = Split("train", utterances, [], targets, streams, seconds, lengths["text"], "")
    return Corpus(split, list(zip(*files, strict=True)), targets.tolist())


def reference_attention(ours: MultiheadAttention) -> nn.MultiheadAttention:
    """Return torch's own attention with the weights of ours."""
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


class HabitHead(nn.Module):
    """The same head as most toolkits write it: padded tensors and nn.MultiheadAttention."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projections, self.classifier = head.projections, head.classifier
        pairs = {"text": head.fusion.text_to_audio, "audio": head.fusion.audio_to_text}
        self.attention = nn.ModuleDict({name: reference_attention(ours.attention) for name, ours in pairs.items()})

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (B, C) for padded (B, T, D) and masks (B, T), True = real."""
        t, a = (
            self.projections[name].norm(self.projections[name].linear(x))
            for name, x in (("text", text), ("audio", audio))
        )
        t_new, _ = self.attention["text"](t, a, a, key_padding_mask=~audio_mask)
        a_new, _ = self.attention["audio"](a, t, t, key_padding_mask=~text_mask)
        fused, mask = torch.cat([t_new, a_new], 1), torch.cat([text_mask, audio_mask], 1)
        return self.classifier((fused * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class HabitDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """One .npy file an utterance and modality."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        text, audio = (torch.from_numpy(np.load(path)).float() for path in self.corpus.files[index])
        return text, audio, self.corpus.targets[index]


def collate(items: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, ...]:
    """Pad to the longest of the batch."""
    padded = []
    for column in (0, 1):
        sequences = [item[column] for item in items]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        batch = pad_sequence(sequences, batch_first=True)
        padded += [batch, torch.arange(batch.shape[1]) < lengths[:, None]]
    return *padded, torch.tensor([item[2] for item in items])


def habit_epoch(head: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> float:
    """Train one epoch the habitual way and return its seconds."""
    started = time.perf_counter()
    for *inputs, targets in loader:
        loss = nn.functional.cross_entropy(head(*inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), OPTIONS.clip_norm)
        optimizer.step()
    return time.perf_counter() - started


def check_equal(ours: Head, habit: nn.Module, corpus: Corpus) -> float:
    """Return the greatest difference of the logits of both on one batch."""
    indices = list(range(32))
    with torch.inference_mode():
        found = ours.eval()(corpus.split.batch(indices, torch.device("cpu")))
        dataset = HabitDataset(corpus)
        expected = habit.eval()(*collate([dataset[i] for i in indices])[:-1])
    ours.train()
    habit.train()
    return float((found - expected).abs().max())


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
        trainer = Trainer(ours, corpus.split, corpus.split, labels, OPTIONS, torch.device("cpu"))
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
