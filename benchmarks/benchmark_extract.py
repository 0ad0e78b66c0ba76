"""Measure the speed of extraction on a CPU against a padded baseline, and the gain of cheaper modes.

    python benchmarks/benchmark_extract.py [--tiny] [--json] [--whisper FOLDER]

The baseline runs the transformers model on padded random batches of 16 utterances, with the
attention mask. `mervn` uses its encoder and its batch plan: sorted by length, with a small budget
of padded seconds. The script checks that both give the same features, to 2e-5.

The model is a small wav2vec 2.0 with the real kernels (hidden size 512, 4 layers, 256 channels), on
utterances of 1 to 15 s with the lengths of a speech emotion corpus, as in benchmark_train_head.py.
Two processes that share one corpus are `mervn extract` with random fourier2vec and the wav2vec 2.0
above, one thread each. Their time is that of the whole command without the start of Python and its
imports: two processes start as long as one.

Trimmed Whisper is compared with windows of 30 s on clips of 3 s: with the weights of --whisper, or
with random weights of the size of whisper-base.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from report import Figure, report
from timing import time_ratio
from torch import Tensor
from two_extractions import measure_two, start_python

from features.audio.torchaudio_import import import_torchaudio
from features.batching import padding_fraction, plan_batches
from features.device import precision_context
from features.encoders.base import load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.extraction.plan import MAX_BATCH
from features.memory import BATCH_SECONDS
from features.ragged import Ragged

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import make_wave_transformer, wave

CPU = torch.device("cpu")
BASELINE_BATCH = 16
"""Utterances per random batch."""


def transformers_model(folder: Path) -> Callable[[Ragged], Ragged]:
    """Return a function that runs a wav2vec 2.0 of transformers as its documentation describes."""
    from transformers import Wav2Vec2Model

    model = Wav2Vec2Model.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(batch: Ragged) -> Ragged:
        output = model(batch.pad(), attention_mask=batch.mask.long())
        sizes = [(size - 400) // 320 + 1 for size in batch.sizes]
        return Ragged.without_values(sizes, batch.values.device).pack(output.last_hidden_state)

    return encode


def encode_all(
    encoder: Callable[[Ragged], Ragged], prepared: list[Tensor], batches: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Return the features of all utterances, encoded batch by batch."""
    found: list[Tensor] = [torch.empty(0)] * len(prepared)
    with torch.inference_mode():
        for batch in batches:
            encoded = encoder(Ragged.from_sequences([prepared[i] for i in batch])).split()
            for i, frames in zip(batch, encoded, strict=True):
                found[i] = frames
    return found


def measure_batches(folder: Path, count: int, rounds: int, sizes: dict[str, Any]) -> list[Figure]:
    """Compare batch plans and precisions of one encoder."""
    model = make_wave_transformer(folder / "wav2vec2", **sizes)
    encoder, original = load_encoder(parse_selector(f"wav2vec2={model}@last", "audio")), transformers_model(model)
    rng = np.random.default_rng(0)
    durations = np.clip(rng.lognormal(np.log(4.2), 0.45, count), 1.0, 15.0)
    prepared = [encoder.prepare(wave(seconds, i)) for i, seconds in enumerate(durations)]
    plan = plan_batches(durations.tolist(), BATCH_SECONDS["cpu"], MAX_BATCH)
    order = rng.permutation(count).tolist()
    random_batches = [order[i : i + BASELINE_BATCH] for i in range(0, count, BASELINE_BATCH)]
    alone = [[i] for i in range(count)]
    check_equal(encode_all(encoder, prepared, plan), encode_all(original, prepared, random_batches))
    check_equal(encode_all(encoder, prepared, plan), encode_all(encoder, prepared, alone))

    def run(
        batches: Sequence[Sequence[int]], precision: str = "fp32", how: Callable[[Ragged], Ragged] = encoder
    ) -> Callable[[], object]:
        def encode() -> None:
            with precision_context(CPU, precision):
                encode_all(how, prepared, batches)

        return encode

    baseline_over_ours = time_ratio(run(random_batches, how=original), run(plan), rounds, warm_up=False)
    bf16_speedup = time_ratio(run(plan), run(plan, "bf16"), rounds, warm_up=False)
    padding = padding_fraction(durations.tolist(), plan)
    alone_over_ours = time_ratio(run(alone), run(plan), rounds, warm_up=False)
    return [
        Figure("extract.random16_over_ours", "baseline / mervn, seconds, fp32", baseline_over_ours, 3.0, "higher"),
        Figure("extract.bf16_speedup", "mervn in fp32 / mervn in bf16, seconds", bf16_speedup, 1.3, "higher"),
        Figure("extract.padding", "fraction of padding in the batches of mervn", padding, 0.05, "lower"),
        Figure("extract.alone_over_ours", "batches of one / mervn, seconds", alone_over_ours, None, "higher"),
    ]


def check_equal(ours: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """Raise RuntimeError if the features differ by more than 2e-5."""
    difference = max((a - b).abs().max().item() for a, b in zip(ours, other, strict=True))
    if difference > 2e-5:
        raise RuntimeError(f"both sides must give equal features, found a difference of {difference}")


def make_base_whisper(folder: Path, tiny: bool) -> Path:
    """Write a Whisper of random weights, of the size of whisper-base or smaller, with the real window of 30 s."""
    import_torchaudio()
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    sizes = (
        {"d_model": 64, "encoder_layers": 2, "encoder_ffn_dim": 128} if tiny else {"d_model": 512, "encoder_layers": 6}
    )
    config = WhisperConfig(
        **{"encoder_ffn_dim": 2048, "encoder_attention_heads": 8} | sizes, decoder_layers=1, decoder_attention_heads=4,
        decoder_ffn_dim=64, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def measure_whisper(model: Path, count: int, rounds: int) -> Figure:
    """Compare trimmed Whisper with windows of 30 s on clips of 3 s."""
    selector = parse_selector(f"whisper={model}", "audio")
    modes = {mode: load_encoder(selector, EncoderSettings(whisper_mode=mode)) for mode in ("30s", "trimmed")}
    prepared = [modes["30s"].prepare(wave(3.0, i)) for i in range(count)]
    plan = plan_batches([3.0] * count, BATCH_SECONDS["cpu"], MAX_BATCH)
    speedup = time_ratio(
        lambda: encode_all(modes["30s"], prepared, plan),
        lambda: encode_all(modes["trimmed"], prepared, plan),
        rounds,
        warm_up=False,
    )
    return Figure(
        "extract.whisper_trimmed_speedup", "windows of 30 s / trimmed, seconds, clips of 3 s", speedup, 5.0, "higher"
    )


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
@click.option("--whisper", type=click.Path(path_type=Path, exists=True), help="Real Whisper weights.")
def main(tiny: bool, as_json: bool, whisper: Path | None) -> None:
    """Measure and print."""
    import_torchaudio()
    from transformers.utils import logging

    logging.disable_progress_bar()
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
    }
    sizes |= {"conv_dim": [256] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = measure_batches(folder, 6 if tiny else 48, 1 if tiny else 3, {} if tiny else sizes)
        model = whisper or make_base_whisper(folder / "whisper", tiny)
        figures.append(measure_whisper(model, 1 if tiny else 6, 1 if tiny else 3))
        selectors = {"wav2vec2": f"wav2vec2={folder / 'wav2vec2'}"}
        if not tiny:
            selectors["fourier2vec"] = "fourier2vec"
        figures += measure_two(selectors, folder, tiny, start_python)
    report("extract", figures, as_json)


if __name__ == "__main__":
    main()
