"""Measure on a GPU how many hours of audio an extraction encodes per hour, and what reading adds to training a head.

    python benchmarks/benchmark_gpu.py [--tiny] [--json] [--device cuda]

An extraction is that of `mervn extract` in fp32: files are decoded, hashed and resampled by 1, 4 and
16 workers, and parts are written with checksums. Encoders have random weights and the sizes of
whisper-base, in windows of 30 s, and of wav2vec2-large. Clips have the lengths of a speech emotion
corpus and lie in the cache of the operating system; four utterances share a file, and each reads it.

- hours: hours of audio per hour, from the first batch to the last commit
- busy: time in which the GPU runs a kernel / time of the extraction, with 16 workers
- epoch: duration of an epoch of training / that of the same steps on batches that are on the GPU
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import soundfile
import torch
from benchmark_extract import make_base_whisper
from benchmark_heads import make_head, options_of
from random_corpus import CLASSES, corpus_lengths, make_corpus
from report import Figure, report
from timing import time_ratio

from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import Utterance
from features.progress import SILENT
from mervn.data.split import Batch, BatchRequest
from mervn.data.stored_split import StoredSplit
from mervn.training.setup import resolve
from mervn.training.trainer import Trainer, TrainingData

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_wave_transformer, wave

WORKERS = (1, 4, 16)
SHARED = 4
"""Utterances per file."""
KINDS = (("wav", 16_000), ("flac", 16_000), ("wav", 44_100), ("flac", 44_100))
"""Format and rate of the files, in turn."""
LARGE_SIZES: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "conv_dim": [512] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip
"""The sizes of wav2vec2-large."""
BUSY_GOAL, EPOCH_GOAL = 0.9, 1.05
FUSIONS = ("xattn", "bilstm_attn")


def write_file(path: Path, seconds: float, seed: int, rate: int) -> None:
    """Write one audio file."""
    soundfile.write(path, wave(seconds, seed, rate), rate)


def make_utterances(folder: Path, count: int) -> list[Utterance]:
    """Write `count` / SHARED audio files and return `count` utterances."""
    folder.mkdir()
    seconds = corpus_lengths(-(-count // SHARED), np.random.default_rng(0))[0].tolist()
    paths, rates = [], []
    for i in range(len(seconds)):
        kind, rate = KINDS[i % len(KINDS)]
        paths.append(folder / f"{i}.{kind}")
        rates.append(rate)
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_file, paths, seconds, range(len(paths)), rates, chunksize=16))
    utterances = []
    for i in range(count):
        path = paths[i // SHARED]
        utterances.append(
            Utterance(f"u{i}", "s", path.name, path, 0.0, None, "mix", None, None, "train", "train.jsonl", i + 1, {})
        )
    return utterances


def extract(utterances: Sequence[Utterance], encoder: Encoder, device: str, workers: int) -> StoreResult:
    """Extract the features of utterances."""
    with tempfile.TemporaryDirectory() as name:
        settings = ExtractSettings(Path(name), device=device, workers=workers)
        with mock.patch("features.extraction.extract.open_encoder", return_value=encoder):
            (result,) = extract_stream(utterances, parse_selector("fourier2vec", "audio"), settings, SILENT)
    return result


def hours_per_hour(result: StoreResult) -> float:
    """Return the hours of audio that an extraction encoded per hour."""
    return result.real_time_factor or 0.0


def busy_fraction(utterances: Sequence[Utterance], encoder: Encoder, workers: int) -> float:
    """Return the fraction of an extraction's time in which the GPU runs a kernel."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        result = extract(utterances, encoder, "cuda", workers)
        torch.cuda.synchronize()
    intervals = []
    for event in profile.events() or ():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu and not event.name.startswith(("Memcpy", "Memset")):
            intervals.append((event.time_range.start, event.time_range.end))
    return union(intervals) / 1e6 / result.seconds


def union(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    length, end = 0.0, -float("inf")
    for first, last in sorted(intervals):
        length += max(0.0, last - max(first, end))
        end = max(end, last)
    return length


def measure_extraction(name: str, encoder: Encoder, utterances: Sequence[Utterance], device: str) -> Iterator[Figure]:
    """Measure the extractions of one encoder."""
    extract(utterances[: len(utterances) // 4], encoder, device, WORKERS[-1])  # processes and libraries are set up
    for workers in WORKERS:
        value = hours_per_hour(extract(utterances, encoder, device, workers))
        what = f"hours of audio per hour, {name}, {workers} workers"
        yield Figure(f"gpu.extract.{name}.hours.{workers}", what, value, None, "higher")
    if device != "cpu":
        what = f"time in which the GPU computes / time of the extraction, {name}, {WORKERS[-1]} workers"
        value = busy_fraction(utterances, encoder, WORKERS[-1])
        yield Figure(f"gpu.extract.{name}.busy", what, value, BUSY_GOAL, "higher")


@dataclass(frozen=True)
class BatchesOnDevice(StoredSplit):
    """A split whose batches are read once, and then stay on the device with their layouts."""

    kept: dict[tuple[int, ...], Batch] = field(default_factory=dict)
    """The batches that were read, by their utterances."""

    def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of a plan."""
        for request in plan:
            key = tuple(request.indices)
            if key not in self.kept:
                (batch,) = super().batches([request], device)
                inputs = batch.inputs()
                self.kept[key] = replace(batch, read=lambda _, inputs=inputs: inputs)
            yield self.kept[key]


def measure_epoch(fusion: str, split: StoredSplit, device: torch.device, where: str, rounds: int) -> Figure:
    """Compare an epoch of training with the same steps on batches that are on the device already."""
    ready = BatchesOnDevice(**vars(split))
    epochs = []
    for data in (split, ready):
        labels = list(map(str, range(CLASSES)))
        training = TrainingData(data, data, labels)
        trainer = Trainer(make_head(fusion).to(device), training, resolve(options_of(fusion, "bf16"), device))
        epochs.append(lambda trainer=trainer: trainer.train_epoch(1))
    ratio = time_ratio(*epochs, rounds)
    what = f"epoch of {fusion} in bf16 / its steps alone, features {where}"
    return Figure(f"gpu.epoch.{fusion}.{where}", what, ratio, EPOCH_GOAL, "lower")


def measure_training(folder: Path, count: int, device: torch.device, rounds: int) -> Iterator[Figure]:
    """Measure epochs with features on disk and on the device."""
    split = make_corpus(folder, count).split
    for where in ("streamed", "resident"):
        if where == "resident":
            for layers in split.streams.values():
                layers[0].load(device)
        for fusion in FUSIONS:
            yield measure_epoch(fusion, split, device, where, rounds)


def measure(device: str, counts: tuple[int, int, int], tiny: bool) -> Iterator[Figure]:
    """Measure training and both encoders."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        utterances = make_utterances(folder / "audio", max(counts[:2]))
        yield from measure_training(folder, counts[2], torch.device(device), 1 if tiny else 21)
        whisper = make_base_whisper(folder / "whisper", tiny)
        wav2vec2 = make_wave_transformer(folder / "wav2vec2", **({} if tiny else LARGE_SIZES))
        for encoder, model, count in (("whisper", whisper, counts[0]), ("wav2vec2", wav2vec2, counts[1])):
            loaded = load_encoder(parse_selector(f"{encoder}={model}@last", "audio"))
            yield from measure_extraction(encoder, loaded, utterances[:count], device)


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda.")
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(device: str, tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    figures = []
    for figure in measure(device, (8, 8, 4) if tiny else (3000, 3000, 4096), tiny):
        print(f"{figure.id} {figure.value:.4g}", file=sys.stderr, flush=True)  # it takes minutes
        figures.append(figure)
    report("gpu", figures, as_json)


if __name__ == "__main__":
    main()
