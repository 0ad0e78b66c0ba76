"""Measure what end-to-end fine-tuning of Whisper learns and costs.

    python benchmarks/benchmark_finetune.py [--whisper FOLDER] [--tiny] [--json]

Runs `mervn finetune` as a user would, each time in a separate process, on the label set of `mervn
demo` whose cause is prosody. Without --whisper, the model is whisper-base with random weights: the
costs are the same, the loss is not.

Figures: the training loss of the last epoch / the first, over 20 steps, with the last 2 layers
unfrozen (worst of three seeds) and with frozen layers; the peak memory when every layer is trained,
with / without gradient checkpointing; the fraction of the encoder's parameters that low-rank
adapters train.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from report import Figure, report

from features.audio.torchaudio_import import import_torchaudio
from mervn.demo import corpus
from mervn.demo.corpus import make_corpus

TWO_SPEAKERS = {split: names[:2] for split, names in corpus.SPEAKERS.items()}
TINY_TEMPLATES = dict.fromkeys(corpus.TEMPLATES_PER_PASS, 4)
SIZES: dict[str, dict[str, int]] = {
    "base": {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
    "tiny": {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 1, "encoder_ffn_dim": 32},
}


def make_whisper(folder: Path, size: dict[str, int]) -> Path:
    """Write a Whisper checkpoint with random weights."""
    import_torchaudio()
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 32, "vocab_size": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**size, **decoder, **tokens)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Size:
    """Amount of training."""

    batch: int = 8
    steps: int = 5
    """Steps per epoch."""
    epochs: int = 4
    seeds: int = 3
    """With so few steps the loss depends on the order of the batches, so one seed is not enough."""
    workers: int = 2
    """Processes that decode audio."""


def make_data(folder: Path, size: Size) -> None:
    """Make a data folder with the first utterances of the demo."""
    make_corpus(folder / "demo", 0)
    data = folder / "data"
    data.mkdir()
    for split, count in (("train", size.batch * size.steps), ("valid", size.batch)):
        lines = (folder / "demo" / "audio" / f"{split}.jsonl").read_text("utf-8").splitlines()
        (data / f"{split}.jsonl").write_text("\n".join(lines[:count]) + "\n", "utf-8")


def run_mervn(arguments: list[str]) -> None:
    """Run a command in a process of its own, whose peak memory is that of the command."""
    command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def finetune(
    folder: Path, name: str, whisper: Path, size: Size, *arguments: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run `mervn finetune` and return its history and its environment.json."""
    run = folder / name
    command = [
        "finetune", "--data", str(folder / "data"),
        "--audio-root", str(folder / "demo" / "audio"), "--fusion", "audio", "--audio-encoder", f"whisper={whisper}",
        "--output", str(run), "--batch-size", str(size.batch), "--patience", "100", "--sampling", "bucket",
        "--amp", "off", "--loss", "ce", "--schedule", "constant", "--threads", str(torch.get_num_threads()),
        "--checkpoint-every", "0", "--no-report", "--workers", str(size.workers), *arguments,
    ]  # fmt: skip
    run_mervn(command)
    history = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return history, json.loads((run / "environment.json").read_text("utf-8"))


def measure(folder: Path, whisper: Path, size: Size) -> list[Figure]:
    """Run every variant once, and the variant with the last 2 layers unfrozen with every seed."""
    head = ["--learning-rate", "1e-3", "--epochs", str(size.epochs)]
    rates = [*head, "--encoder-learning-rate", "1e-4"]
    loss_ratios = []
    for seed in range(size.seeds):
        history, _ = finetune(
            folder, f"last-{seed}", whisper, size, *rates, "--unfreeze-last", "2", "--seed", str(seed)
        )
        loss_ratios.append(loss_ratio(history))
    none, _ = finetune(folder, "none", whisper, size, *head, "--unfreeze-last", "0")
    plain_history, plain = finetune(folder, "plain", whisper, size, "--epochs", "1")
    slow_history, slow = finetune(folder, "checkpointed", whisper, size, "--epochs", "1", "--gradient-checkpointing")
    _, lora = finetune(folder, "lora", whisper, size, "--epochs", "1", "--lora-rank", "8")
    counts = lora["parameter_counts"]
    memory = slow["peak_memory_gb"] / plain["peak_memory_gb"]
    seconds = slow_history[1]["seconds"] / plain_history[1]["seconds"]
    what = f"training loss of epoch {size.epochs} / of epoch 1, {size.steps} steps each"
    return [
        Figure("finetune.loss", f"{what}, last 2 layers unfrozen, worst seed", max(loss_ratios), 0.9, "lower"),
        Figure("finetune.loss_best", "the same, best seed", min(loss_ratios), None, "lower"),
        Figure("finetune.loss_head", f"{what}, head only", loss_ratio(none), None, "lower"),
        Figure("finetune.memory_plain", "peak GB, every layer trained", plain["peak_memory_gb"], None, "lower"),
        Figure("finetune.memory_checkpointed", "peak GB, with gradient checkpointing", slow["peak_memory_gb"], None,
               "lower"),
        Figure("finetune.memory", "peak memory with / without gradient checkpointing", memory, 0.8, "lower"),
        Figure("finetune.checkpoint_seconds", "seconds with / without gradient checkpointing", seconds, None, "lower"),
        Figure("finetune.lora_share", "fraction of the encoder's parameters that rank 8 trains",
               counts["encoders_trained"] / counts["encoders"], 0.03, "lower"),
    ]  # fmt: skip


def loss_ratio(history: list[dict[str, Any]]) -> float:
    """Return the training loss of the last epoch / of the first epoch."""
    return float(history[-1]["train_loss"] / history[1]["train_loss"])


@click.command()
@click.option("--whisper", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Pretrained weights.")
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances and a tiny encoder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(whisper: Path | None, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    speakers = mock.patch.dict(corpus.SPEAKERS, TWO_SPEAKERS)
    templates = mock.patch.dict(corpus.TEMPLATES_PER_PASS, TINY_TEMPLATES if tiny else {})
    with tempfile.TemporaryDirectory() as name, speakers, templates:
        folder = Path(name)
        size = Size(2, 1, 2, 1, 0) if tiny else Size()
        make_data(folder, size)
        figures = measure(folder, whisper or make_whisper(folder / "whisper", SIZES["tiny" if tiny else "base"]), size)
    report("finetune", figures, as_json)


if __name__ == "__main__":
    main()
