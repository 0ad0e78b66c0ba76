"""Measure how much faster training is when frozen encoders run only once.

    python benchmarks/benchmark_two_stage.py [--tiny] [--json]

Real architectures with random weights: wav2vec 2.0 large (width 1024, 24 layers, as XLSR-53) or
base (768, 12), and PhoBERT-base (768, 12). Utterances have the lengths of a speech emotion corpus
(1 to 15 s, as in benchmark_train_head.py). Everything runs in fp32.

- An epoch of stage two trains the xattn head of `train-head` on stored features.
- An epoch with frozen encoders runs both encoders on every utterance as `mervn extract` does, then
  trains the same.
- An epoch of fine-tuning runs forward and backward through encoders and head, with a frozen
  convolutional front end and AdamW for the rest.
- The total compares 50 epochs for 5 seeds: encoders in every epoch, or one extraction and all
  epochs of stage two.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from random_corpus import CLASSES, corpus_lengths, random_identity
from report import Figure, report
from torch import nn

from features.audio.torchaudio_import import import_torchaudio
from features.batching import plan_batches
from features.encoders.wav2vec2 import Wav2Vec2
from features.manifests.manifest import Utterance
from features.memory import BATCH_SECONDS
from features.ragged import Ragged
from features.store.identity import create_store
from features.store.part import StoredUtterance
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter
from mervn.config import TrainHeadOptions
from mervn.data.split import read_batch
from mervn.data.stored_sequences import Sequences
from mervn.data.stored_split import StoredSplit
from mervn.data.streams import StreamShape
from mervn.model.head import Head, build_head
from mervn.training.setup import resolve
from mervn.training.trainer import Trainer, TrainingData

CPU = torch.device("cpu")
EPOCHS, SEEDS = 50, 5
SIZES: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
             "conv_dim": [32] * 7},
}  # fmt: skip
TEXT_SIZE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
FINETUNE_BATCH = 4
"""Utterances per batch: the activations of a large encoder then fit into 24 GB."""
GOALS = {"large": (120.0, 400.0), "base": (None, None), "tiny": (None, None)}


@dataclass(frozen=True)
class Data:
    """The same utterances as waveforms, as token ids, and as features in stores."""

    audio: list[torch.Tensor]
    tokens: list[torch.Tensor]
    split: StoredSplit


def make_encoders(audio_size: dict[str, Any], text_size: dict[str, Any]) -> tuple[Wav2Vec2, nn.Module]:
    """Build both encoders with random weights."""
    import_torchaudio()
    from transformers import RobertaConfig, RobertaModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(**audio_size, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    text = RobertaConfig(**text_size, intermediate_size=4 * text_size["hidden_size"], vocab_size=64001,
                         max_position_embeddings=258, type_vocab_size=1, pad_token_id=1)  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    return Wav2Vec2(Wav2Vec2Model(config), extractor, ("last",)), RobertaModel(text, add_pooling_layer=False)


def encode_text(model: nn.Module, tokens: Ragged) -> Ragged:
    """Run a text encoder over packed token ids (sum T,)."""
    output = model(tokens.pad(1).long(), attention_mask=tokens.mask.long())
    return tokens.pack(output.last_hidden_state)


def make_data(folder: Path, count: int, widths: dict[str, int], encoder: Wav2Vec2) -> Data:
    """Make random waveforms and token ids, and random features with matching lengths."""
    generator = np.random.default_rng(0)
    seconds, lengths = corpus_lengths(count, generator)
    audio = []
    for duration in seconds:
        samples = generator.standard_normal(round(16_000 * float(duration))).astype(np.float32)
        audio.append(encoder.prepare(samples))
    tokens = [torch.from_numpy(generator.integers(4, 64_000, int(size)).astype(np.int32)) for size in lengths["text"]]
    sizes = {"audio": [encoder.get_feat_lengths(len(x)) for x in audio], "text": list(map(len, tokens))}
    names = [f"u{i}" for i in range(count)]
    streams = {}
    for modality, width in widths.items():
        info = create_store(folder, random_identity(modality, width), {}, "benchmark")
        with StoreWriter(info) as writer:
            for name, size in zip(names, sizes[modality], strict=True):
                values = generator.standard_normal((size, width), np.float32).astype(np.float16)
                writer.add([StoredUtterance(name, values, 0, "", "{}")])
        streams[modality] = [Sequences.of(FeatureStore(info.path), names)]
    targets = generator.integers(0, CLASSES, count)
    utterances = [Utterance(n, "s", "-", Path("-"), 0.0, None, "mix", "", "-", "train", "-", 1, {}) for n in names]
    split = StoredSplit("train", utterances, [], targets, streams, seconds, lengths["text"], "")
    return Data(audio, tokens, split)


def frozen_seconds(audio: Wav2Vec2, text: nn.Module, data: Data) -> float:
    """Return the seconds of both encoders on every utterance, without gradients, batched as in an extraction."""
    audio.eval()
    text.eval()
    started = time.perf_counter()
    plan = plan_batches([len(samples) / 16_000 for samples in data.audio], BATCH_SECONDS["cpu"], 32)
    with torch.inference_mode():
        for batch in plan:
            audio(Ragged.from_sequences([data.audio[i] for i in batch]))
            encode_text(text, Ragged.from_sequences([data.tokens[i] for i in batch]))
    return time.perf_counter() - started


def finetune_seconds(audio: Wav2Vec2, text: nn.Module, head: Head, data: Data) -> float:
    """Return the seconds of one epoch of fine-tuning, in batches of similar length."""
    modules = nn.ModuleList([audio, text, head]).train()
    audio.model.feature_extractor._freeze_parameters()
    optimizer = torch.optim.AdamW([p for p in modules.parameters() if p.requires_grad], lr=1e-5, fused=True)
    order = np.argsort(list(map(len, data.audio))).tolist()
    batches = [order[i : i + FINETUNE_BATCH] for i in range(0, len(order), FINETUNE_BATCH)]
    seconds = []
    for batch in [batches[0], *batches]:  # the first is a warm-up that creates the optimizer state
        started = time.perf_counter()
        streams = {
            "audio": audio(Ragged.from_sequences([data.audio[i] for i in batch])),
            "text": encode_text(text, Ragged.from_sequences([data.tokens[i] for i in batch])),
        }
        nn.functional.cross_entropy(head(streams), read_batch(data.split, batch, CPU).targets).backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return sum(seconds[1:])


def stage_two_seconds(trainer: Trainer, epochs: Sequence[int]) -> float:
    """Return the median seconds of an epoch of stage two, including reading."""
    seconds = []
    for epoch in epochs:
        started = time.perf_counter()
        trainer.train_epoch(epoch)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(size: str, text_size: dict[str, Any], count: int, rounds: int) -> list[Figure]:
    """Alternate the three kinds of epoch and return the figures for one encoder size."""
    audio, text = make_encoders(SIZES[size], text_size)
    widths = {"text": text_size["hidden_size"], "audio": SIZES[size]["hidden_size"]}
    options = TrainHeadOptions(fusion="xattn", pooling="mean", sampling="bucket", batch_size=16, loss="ce",
                               dropout=0.0, epochs=EPOCHS, amp="off")  # fmt: skip
    shapes = {name: StreamShape(width) for name, width in widths.items()}
    frozen, finetuned, stage_two = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), count, widths, audio)
        head = build_head(options, shapes, CLASSES)
        training_data = TrainingData(data.split, data.split, list(map(str, range(CLASSES))))
        trainer = Trainer(build_head(options, shapes, CLASSES), training_data, resolve(options, CPU))
        stage_two_seconds(trainer, range(3))
        for start in range(rounds):
            stage_two.append(stage_two_seconds(trainer, range(7 * start, 7 * start + 7)))
            frozen.append(frozen_seconds(audio, text, data))
            finetuned.append(finetune_seconds(audio, text, head, data))
    frozen_ratio = statistics.median((a + b) / b for a, b in zip(frozen, stage_two, strict=True))
    finetune_ratio = statistics.median(a / b for a, b in zip(finetuned, stage_two, strict=True))
    extraction, epoch, num_epochs = statistics.median(frozen), statistics.median(stage_two), EPOCHS * SEEDS
    total = num_epochs * (extraction + epoch) / (extraction + num_epochs * epoch)
    frozen_goal, finetune_goal = GOALS[size]
    whole = f"{EPOCHS} epochs x {SEEDS} seeds with frozen encoders / extraction and stage two"
    return [
        Figure(f"two_stage.frozen.{size}", "epoch with frozen encoders / epoch of stage two", frozen_ratio,
               frozen_goal, "higher"),
        Figure(f"two_stage.finetune.{size}", "epoch of fine-tuning / epoch of stage two", finetune_ratio,
               finetune_goal, "higher"),
        Figure(f"two_stage.total.{size}", whole, total, None, "higher"),
        Figure(f"two_stage.seconds.{size}", f"epoch of stage two, {count} utterances, s", epoch, None, "lower"),
    ]  # fmt: skip


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    if tiny:
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        report("two_stage", measure("tiny", small, 4, 1), as_json)
        return
    report("two_stage", measure("base", TEXT_SIZE, 16, 3) + measure("large", TEXT_SIZE, 16, 3), as_json)


if __name__ == "__main__":
    main()
