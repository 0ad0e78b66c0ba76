"""Known answers of the demo: extract, train and evaluate, then check scores of known range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from features.config import SPLITS
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.report import StoreResult
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT, Reporter
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.evaluation.evaluate import evaluate
from mervn.training.train_head import train_head

SETS = ("audio", "text", "both", "none")
FUSIONS = ("text", "audio", "late", "xattn")
ENCODERS = {"audio": "fourier2vec", "text": "hashed_ngrams"}
SETTINGS: dict[str, Any] = {
    "pooling": "mean",
    "dim": 64,
    "mlp": (128,),
    "dropout": 0.2,
    "loss": "ce",
    "sampling": "bucket",
    "epochs": 30,
    "patience": 8,
    "learning_rate": 1e-3,
    "amp": "off",
}
"""Options of `mervn train-head`, chosen on valid, for every fusion and label set."""


@dataclass(frozen=True)
class Answer:
    """A known answer: a bound on the best test macro-F1 of some fusions on a label set."""

    label_set: str
    fusions: tuple[str, ...]
    bound: float
    at_least: bool
    """Whether the bound is the minimum; otherwise it is the maximum."""

    def met(self, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Return whether the scores meet this answer."""
        best = max(scores[self.label_set][fusion] for fusion in self.fusions)
        return best >= self.bound if self.at_least else best <= self.bound

    def __str__(self) -> str:
        side = ">=" if self.at_least else "<="
        return f"{self.label_set}: {' or '.join(self.fusions)} {side} {self.bound:.2f}"


ANSWERS = (
    Answer("audio", ("audio",), 0.85, True),
    Answer("text", ("text",), 0.95, True),
    Answer("both", ("late", "xattn"), 0.85, True),
    Answer("audio", ("text",), 0.65, False),
    Answer("text", ("audio",), 0.65, False),
    Answer("both", ("text",), 0.65, False),
    Answer("both", ("audio",), 0.65, False),
    *(Answer("none", (fusion,), 0.65, False) for fusion in FUSIONS),
)
"""A fusion that sees the cause of the labels must score high; any other, near chance (0.50)."""


def answers_of(fusion: str) -> tuple[Answer, ...]:
    """Return the known answers of a fusion of both modalities: high on all sets but `none`."""
    return (
        Answer("audio", (fusion,), 0.85, at_least=True),
        Answer("text", (fusion,), 0.95, at_least=True),
        Answer("both", (fusion,), 0.85, at_least=True),
        Answer("none", (fusion,), 0.65, at_least=False),
    )


@dataclass(frozen=True)
class DemoResult:
    """Test macro-F1 by label set and fusion, and the known answers that were missed."""

    macro_f1: dict[str, dict[str, float]]
    n_test: int
    missed: list[str]

    @property
    def met(self) -> bool:
        """Return whether every known answer is met."""
        return not self.missed


def extract_demo(demo: Path, reporter: Reporter) -> list[StoreResult]:
    """Extract features with both encoders, once: the label sets share audio and transcripts."""
    manifests = read_manifests(demo / "audio", SPLITS)
    utterances = list(chain.from_iterable(manifests[split] for split in SPLITS))
    settings = ExtractSettings(features_dir=demo / "stores")
    results: list[StoreResult] = []
    for modality, name in ENCODERS.items():
        results += extract_stream(utterances, parse_selector(name, modality), settings, reporter)
    return results


def train_and_score(
    demo: Path,
    seed: int,
    reporter: Reporter,
    fusions: Sequence[str] = FUSIONS,
    answers: Sequence[Answer] | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> DemoResult:
    """Train every fusion on every label set, and evaluate it on test.

    `changes` override the demo's `SETTINGS`. `answers` are the known answers to check, by default
    `ANSWERS`.
    """
    scores: dict[str, dict[str, float]] = {}
    n_test = 0
    for label_set in SETS:
        scores[label_set] = {}
        for fusion in fusions:
            data, run = demo / label_set, demo / "runs" / f"{label_set}-{fusion}-seed{seed}"
            options = TrainHeadOptions(
                **{**SETTINGS, **changes},
                fusion=fusion,
                seed=seed,
                features_dir=demo / "stores",
                output=run,
                checkpoint_every=0,
            ).with_general(changes)
            result = train_head(options, data)
            test_options = EvaluateOptions(split="test", features_dir=demo / "stores", data=data)
            test = evaluate(run, test_options, SILENT)["test"]  # sixteen of them: the scores are enough
            scores[label_set][fusion] = test["macro_f1"]
            n_test = test["n"]
            valid = result.metrics["valid"]["macro_f1"]
            scored = f"macro-F1 {valid:.3f} on valid, {test['macro_f1']:.3f} on test"
            reporter.say(f"{label_set:>5} {fusion:>5}: {scored}")
    # ANSWERS is read at call time, so that tests can replace it.
    answers = ANSWERS if answers is None else answers
    missed = [str(answer) for answer in answers if not answer.met(scores)]
    return DemoResult(scores, n_test, missed)
