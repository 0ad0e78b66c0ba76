"""Measure what masked-frame pretraining of Fourier2Vec learns in two minutes, and whether it helps a head.

    python benchmarks/benchmark_pretrain.py [--tiny] [--json]

`mervn pretrain-audio` trains with its defaults for two minutes on the CPU, on the train split of a
harder demo corpus, 17 minutes of synthetic speech. Pitch, pitch range and volume vary as widely as
in the demo, but their classes overlap completely; only tempo (rate and pauses) predicts the class,
and it overlaps too.

The first figure is the masked L1 on valid, which has other speakers, divided by the L1 of
predicting the mean. The second is the gain in test macro-F1 of a head on pretrained over random
frozen features, as the mean of 3 seeds with the same head, settings, layer and data.

Label set and layer were chosen on train and valid. There, a linear probe predicts the rate with R2
0.91 from pretrained features and 0.78 from random ones, pauses with 0.84 and 0.74, and pitch, range
and volume equally badly from both. If those cause the labels, or all five together, pretraining
gains nothing beyond noise.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from unittest import mock

import click
from report import Figure, report

from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import EvaluateOptions, PretrainOptions, TrainHeadOptions
from mervn.demo import corpus
from mervn.demo.corpus import PARAMETERS
from mervn.demo.known_answers import SETTINGS
from mervn.evaluation.evaluate import evaluate
from mervn.pretraining.pretrain import pretrain
from mervn.training.train_head import train_head

SEEDS = 3
LAYER = "last"
TEMPO = ("rate", "word_gap")
TEMPO_DEVIATION = 0.5
"""Standard deviation of the tempo parameters, as a fraction of their change between the classes."""
TINY_SPEAKERS = {split: names[:2] for split, names in corpus.SPEAKERS.items()}
TINY_TEMPLATES = dict.fromkeys(corpus.TEMPLATES_PER_PASS, 2)
SAFE_RANGE = (10, 90)
"""Limits of pitch and pitch range: with other values, espeak-ng crashes for some voices."""


def make_data(folder: Path, tiny: bool) -> Path:
    """Make the harder corpus and return the data folder of the label set `audio`, whose cause is prosody."""
    harder = {}
    for name, (mean, change, _, limits) in PARAMETERS.items():
        if name in TEMPO:
            harder[name] = (mean, change, TEMPO_DEVIATION * abs(change), limits)
        else:  # as much variation as in the demo, but independent of the class
            harder[name] = (mean, 0.0, abs(change), limits if name == "volume" else SAFE_RANGE)
    templates = mock.patch.dict(corpus.TEMPLATES_PER_PASS, TINY_TEMPLATES if tiny else {})
    speakers = mock.patch.dict(corpus.SPEAKERS, TINY_SPEAKERS if tiny else {})
    with mock.patch.object(corpus, "PARAMETERS", harder), speakers, templates:
        corpus.make_corpus(folder / "corpus")
    data = folder / "corpus" / "audio"
    if tiny:
        for split in SPLITS:
            path = data / f"{split}.jsonl"
            path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:8]), "utf-8")
    return data


def extract(data: Path, stores: Path, encoder: str) -> None:
    """Extract the features of every split with an encoder."""
    manifests = read_manifests(data, SPLITS)
    utterances = list(chain.from_iterable(manifests[split] for split in SPLITS))
    settings = ExtractSettings(features_dir=stores, device="cpu")
    extract_stream(utterances, parse_selector(encoder, "audio"), settings, SILENT)


def score(data: Path, stores: Path, encoder: str, seeds: int, splits: Sequence[str] = SPLITS[1:]) -> dict[str, float]:
    """Return the mean macro-F1 over `seeds` heads on the stored features of an encoder, by split."""
    found: dict[str, list[float]] = {split: [] for split in splits}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as run:
            options = TrainHeadOptions(
                **SETTINGS, fusion="audio", audio_encoder=encoder, seed=seed, features_dir=stores, output=Path(run),
                checkpoint_every=0, device="cpu",
            )  # fmt: skip
            train_head(options, data)
            for split in splits:
                evaluated = EvaluateOptions(split=split, features_dir=stores, data=data, device="cpu")
                found[split].append(evaluate(Path(run), evaluated)[split]["macro_f1"])
    return {split: statistics.mean(values) for split, values in found.items()}


def measure(minutes: float, seeds: int, tiny: bool) -> list[Figure]:
    """Pretrain, score both encoders and return the figures."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tiny split may lack a class
        folder = Path(name)
        data = make_data(folder, tiny)
        options = PretrainOptions(minutes=minutes, output=folder / "pretrained", device="cpu")
        result = pretrain(options, data).result
        encoders = {"random": f"fourier2vec@{LAYER}", "pretrained": f"fourier2vec={folder / 'pretrained'}@{LAYER}"}
        f1 = {}
        for which, encoder in encoders.items():
            stores = folder / f"stores-{which}"
            extract(data, stores, encoder)
            f1[which] = score(data, stores, encoder, seeds)
    gain = {split: f1["pretrained"][split] - f1["random"][split] for split in ("valid", "test")}
    ratio = result["valid"]["ratio"]
    return [
        Figure("pretrain.l1_over_mean", "masked L1 on valid / L1 of predicting the mean", ratio, 0.8, "lower"),
        Figure("pretrain.f1_gain", "test macro-F1, pretrained minus random", gain["test"], 0.0, "higher"),
        Figure("pretrain.f1_gain_valid", "the same on valid", gain["valid"], None, "higher"),
        Figure("pretrain.f1_random", "test macro-F1 on random features", f1["random"]["test"], None, "higher"),
        Figure("pretrain.steps", "steps of pretraining", result["steps"], None, "higher"),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("pretrain", measure(0.005, 1, True) if tiny else measure(2.0, SEEDS, False), as_json)


if __name__ == "__main__":
    main()
