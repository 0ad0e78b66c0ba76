"""Measure what masked-frame pretraining of Fourier2Vec learns in two minutes, and whether it is of use.

    python benchmarks/benchmark_pretrain.py [--tiny] [--json]

`mervn pretrain-audio` trains with its defaults for two minutes on the CPU on the train split of the demo corpus, 17
minutes of synthetic speech, made harder: pitch, pitch range and volume vary as widely as in the demo but overlap
completely, so that tempo (rate and pauses) alone tells the classes apart, and it overlaps too. First: how large is the
masked L1 on valid, which other speakers speak, beside predicting the mean? Second: by how much is test macro-F1 of a
head on its frozen features above that on the features of random weights, mean of 3 seeds, same head, settings, layer
and data? Set and layer were chosen on train and valid: a linear probe reads the rate from pretrained features with R2
0.91 and from random ones with 0.78, the pauses with 0.84 and 0.74, and pitch, range and volume equally badly from both.
Where those decide, or all five together, pretraining gains nothing beyond noise.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import click
from report import Figure, Silent, report

from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
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
"""Of tempo by itself, over its change between the classes."""
SPEAKABLE = (10, 90)
"""Pitch and range beyond these make espeak-ng crash with some voices."""


def make_data(folder: Path, tiny: bool) -> Path:
    """Make the harder corpus and return the data folder of the label set that prosody decides."""
    harder = {
        name: (centre, change, TEMPO_DEVIATION * abs(change), limits)
        if name in TEMPO
        else (centre, 0.0, abs(change), limits if name == "volume" else SPEAKABLE)
        for name, (centre, change, _, limits) in PARAMETERS.items()
    }
    with mock.patch.object(corpus, "PARAMETERS", harder):
        corpus.make_corpus(folder / "corpus")
    data = folder / "corpus" / "audio"
    if tiny:
        for split in SPLITS:
            path = data / f"{split}.jsonl"
            path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:16]), "utf-8")
    return data


def extract(data: Path, stores: Path, encoder: str) -> None:
    """Store an encoder's features of every split."""
    rows = read_manifests(data, SPLITS)
    utterances = [utterance for split in SPLITS for utterance in rows[split]]
    settings = ExtractSettings(features_dir=stores, device="cpu")
    extract_stream(utterances, parse_selector(encoder, "audio"), settings, lambda _: None, Silent)


def score(data: Path, stores: Path, encoder: str, seeds: int, splits: Sequence[str] = SPLITS[1:]) -> dict[str, float]:
    """Return the mean macro-F1 of heads of so many seeds on an encoder's stored features."""
    found: dict[str, list[float]] = {split: [] for split in splits}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as run:
            options = TrainHeadOptions(
                **SETTINGS, fusion="audio", audio_encoder=encoder, seed=seed, features_dir=stores, output=Path(run),
                checkpoint_every=0, device="cpu",
            )  # fmt: skip
            train_head(options, data)
            for split in splits:
                looked = EvaluateOptions(split=split, features_dir=stores, data=data, device="cpu")
                found[split].append(evaluate(Path(run), looked, lambda _: None)[split]["macro_f1"])
    return {split: statistics.mean(values) for split, values in found.items()}


def measure(minutes: float, seeds: int, tiny: bool) -> list[Figure]:
    """Pretrain, score both encoders and return the figures."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tiny split may lack a class
        folder = Path(name)
        data = make_data(folder, tiny)
        options = PretrainOptions(minutes=minutes, output=folder / "pretrained", device="cpu")
        result = pretrain(options, data, lambda _: None, Silent, lambda _: None).result
        encoders = {"random": f"fourier2vec@{LAYER}", "learned": f"fourier2vec={folder / 'pretrained'}@{LAYER}"}
        f1 = {}
        for which, encoder in encoders.items():
            extract(data, folder / which, encoder)
            f1[which] = score(data, folder / which, encoder, seeds)
    gain = {split: f1["learned"][split] - f1["random"][split] for split in ("valid", "test")}
    ratio = result["valid"]["ratio"]
    return [
        Figure("pretrain.l1_over_mean", "masked L1 on valid over predicting the mean", ratio, 0.8, "lower"),
        Figure("pretrain.f1_gain", "test macro-F1, pretrained minus random", gain["test"], 0.0, "higher"),
        Figure("pretrain.f1_gain_valid", "the same on valid", gain["valid"], None, "higher"),
        Figure("pretrain.f1_random", "test macro-F1 on random features", f1["random"]["test"], None, "higher"),
        Figure("pretrain.steps", "steps of the pretraining", result["steps"], None, "higher"),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="A few utterances: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("pretrain", measure(0.02, 1, True) if tiny else measure(2.0, SEEDS, False), as_json)


if __name__ == "__main__":
    main()
