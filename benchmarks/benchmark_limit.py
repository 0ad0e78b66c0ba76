"""Measure how close training a head and running an encoder come to the speed of plain matrix products.

    python benchmarks/benchmark_limit.py [--tiny] [--json]

The limit is the product of two 2048 x 2048 matrices of the same precision. A figure is the
arithmetic per second of whole steps / that of the product. Both are measured in turn, with all
cores. A step of training is what `mervn train-head` does for a batch of 32 utterances of the
random corpus: read resident features, forward, loss, backward, clipping and AdamW. A step of
extraction is `encode` on a batch of the batch plan, by encoders of base size with random weights.

torch's FlopCounterMode counts the arithmetic while a step runs: matrix products and convolutions,
forward and backward. It has no formula for the LSTM and the attention kernel of a CPU; they are
counted by the formulas below, the LSTM with its padding. Everything else counts as no arithmetic:
norms, softmax, activations, copies, AdamW. Its time is part of what keeps a step below the limit.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from benchmark_extract import make_base_whisper
from benchmark_heads import make_head, options_of
from random_corpus import CLASSES, corpus_lengths, make_corpus
from report import Figure, report
from timing import seconds_of
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from features.audio.torchaudio_import import import_torchaudio
from features.batching import plan_batches
from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.extraction.encode import encode
from features.extraction.plan import MAX_BATCH
from features.heap import keep_freed_memory
from features.memory import BATCH_SECONDS
from mervn.data.stored_split import StoredSplit
from mervn.training.setup import resolve
from mervn.training.trainer import Trainer, TrainingData

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_wave_transformer, wave

CPU = torch.device("cpu")
SIZE = 2048
"""Size of the square matrices whose product is the limit."""
GOALS = {"xattn": (0.70, 0.50), "bilstm_attn": (0.55, 0.40), "cnn_bilstm_attn": (0.55, 0.40)}
"""Goals in fp32 and bf16."""
PRECISIONS = {"fp32": ("off", torch.float32), "bf16": ("bf16", torch.bfloat16)}
EXTRACTION_GOAL = 0.65
BASE_SIZES: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "conv_dim": [512] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip
"""The sizes of wav2vec2-base."""


def lstm_flops(x: Any, input_weight: Any, hidden_weight: Any, *_: Any, **__: Any) -> int:
    """Return the arithmetic of an LSTM over x (T, B, D): per frame, 4 gates of input and hidden state."""
    return 2 * x[0] * x[1] * (input_weight[0] * input_weight[1] + hidden_weight[0] * hidden_weight[1])


def lstm_backward_flops(*shapes: Any, **__: Any) -> int:
    """Return twice the arithmetic of the forward pass: gradients of the inputs and of the weights."""
    return 2 * lstm_flops(*shapes)


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the arithmetic of the two products of attention."""
    return int(sdpa_flop_count(query, key, value))


def attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the arithmetic of the backward pass of attention, which computes the scores again."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


CPU_KERNELS = {
    torch.ops.aten.mkldnn_rnn_layer: lstm_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: lstm_backward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
"""Formulas of kernels that FlopCounterMode does not know; they receive the shapes of the arguments."""


def count_flops(step: Callable[[], object]) -> int:
    """Return the multiplications and additions of a step."""
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        step()
    return int(counter.get_total_flops())


def fraction_of_limit(step: Callable[[], object], dtype: torch.dtype, rounds: int, size: int) -> float:
    """Return the arithmetic per second of a step / that of a matrix product in `dtype`."""
    flops = count_flops(step)  # also a warm-up
    a, b, product = (torch.randn(size, size).to(dtype) for _ in range(3))

    def limit() -> None:
        torch.mm(a, b, out=product)

    limit()
    fractions = []
    for _ in range(rounds):
        # before and after the step: the machine may become faster or slower during it
        limit_seconds = [seconds_of(limit) for _ in range(2)]
        step_seconds = seconds_of(step)
        limit_seconds += [seconds_of(limit) for _ in range(2)]
        fractions.append(flops / step_seconds / (2 * size**3 / statistics.median(limit_seconds)))
    return statistics.median(fractions)


def measure_head(fusion: str, split: StoredSplit, rounds: int, size: int) -> list[Figure]:
    """Measure the steps of one epoch of training a head."""
    data = TrainingData(split, split, list(map(str, range(CLASSES))))
    figures = []
    for (precision, (amp, dtype)), goal in zip(PRECISIONS.items(), GOALS[fusion], strict=True):
        trainer = Trainer(make_head(fusion), data, resolve(options_of(fusion, amp), CPU))
        value = fraction_of_limit(lambda trainer=trainer: trainer.train_epoch(1), dtype, rounds, size)
        what = f"training of {fusion} / matrix product, arithmetic per second, {precision}"
        figures.append(Figure(f"limit.{fusion}.{precision}", what, value, goal, "higher"))
    return figures


def measure_encoder(selector: str, name: str, count: int, rounds: int, size: int) -> Figure:
    """Measure the batches of an extraction of `count` utterances, fp32."""
    encoder = load_encoder(parse_selector(selector, "audio"))
    durations = corpus_lengths(count, np.random.default_rng(0))[0]
    prepared = [encoder.prepare(wave(seconds, i)) for i, seconds in enumerate(durations)]
    costs = [encoder.get_padded_length(len(samples)) / 16_000 for samples in prepared]
    plan = plan_batches(costs, BATCH_SECONDS["cpu"], MAX_BATCH)

    def run() -> None:
        for batch in plan:
            encode([prepared[i] for i in batch], encoder, CPU)

    value = fraction_of_limit(run, torch.float32, rounds, size)
    what = f"extraction with a {name} of base size / matrix product, arithmetic per second, fp32"
    return Figure(f"limit.extract.{name}", what, value, EXTRACTION_GOAL, "higher")


def measure(count: int, encoded: int, rounds: int, tiny: bool) -> list[Figure]:
    """Measure all fusions and two encoders."""
    figures, size = [], 64 if tiny else SIZE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = make_corpus(folder, count).split
        for layers in split.streams.values():
            layers[0].load(CPU)
        for fusion in GOALS:
            figures += measure_head(fusion, split, rounds, size)
        whisper = make_base_whisper(folder / "whisper", tiny)
        wav2vec2 = make_wave_transformer(folder / "wav2vec2", group_norm=True, **({} if tiny else BASE_SIZES))
        for encoder, model in (("whisper", whisper), ("wav2vec2", wav2vec2)):
            figures.append(measure_encoder(f"{encoder}={model}@last", encoder, encoded, rounds, size))
    return figures


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    keep_freed_memory()  # as every training and extraction does
    import_torchaudio()
    from transformers.utils import logging

    logging.disable_progress_bar()
    report("limit", measure(2, 1, 1, True) if tiny else measure(128, 4, 5, False), as_json)


if __name__ == "__main__":
    main()
